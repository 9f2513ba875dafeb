"""A topic is bound to its model, to exactly that one, and is no text."""

from typing import assert_type

from eventbus import Topic
from tests.typing.shop import CREATED, EITHER, Created, CreatedAbroad, Shipped

assert_type(CREATED, Topic[Created])
assert_type(EITHER, Topic[Created | Shipped])
assert_type(CREATED.validate({"order_id": "o-1"}), Created)
assert_type(CREATED.name, str)

same: Topic[Created] = Topic("orders.created", Created)
named: Topic[Created] = Topic(name="orders.created", model=Created, version=2)

abroad = Topic("orders.abroad", CreatedAbroad)
wider_later: Topic[Created] = abroad  # expect-error
narrower: Topic[CreatedAbroad] = CREATED  # expect-error
other: Topic[Shipped] = CREATED  # expect-error
part_of_union: Topic[Created | Shipped] = CREATED  # expect-error

text: str = CREATED  # expect-error
upper = CREATED.upper()  # expect-error
no_model = Topic("orders.created")  # expect-error
no_text = Topic(1, Created)  # expect-error
CREATED.name = "orders.other"  # expect-error


def needs_text(name: str) -> str:
    return name


needs_text(CREATED)  # expect-error
needs_text(CREATED.name)
