"""Payloads as JSON: what a durable transport stores, and what it reads back."""

__all__ = ("JsonCodec",)

from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import from_json, to_json

from eventbus.cache import BoundedCache
from eventbus.errors import InvalidEvent
from eventbus.schema import Schema, flaws_of, is_pydantic_class

MODELS_KEPT = 1024


class JsonCodec:
    """Turns payloads into JSON, and says what they are once they come back from it.

    A model is written so that its own validation takes it back: by its aliases, or by the names of
    its fields where it would not know its aliases again. Computed fields are left out. Bytes are
    JSON already, and travel as they are.
    """

    def __init__(self) -> None:
        self._by_alias: BoundedCache[object, bool] = BoundedCache(MODELS_KEPT)

    def encode(
        self, topic: str, payload: object, contract: Schema[Any] | None
    ) -> tuple[bytes, object]:
        """Write a payload as JSON; give that, and the payload as it is read from it.

        What is neither model nor mapping is written as the contract's model says.

        Raises:
            InvalidEvent: It cannot be JSON.
        """
        if isinstance(payload, bytes):
            return payload, payload
        try:
            data = self._write(payload, contract)
            return data, from_json(data, allow_inf_nan=False)
        except Exception as error:  # a model's own serializers may raise anything
            raise InvalidEvent(
                f"this {type(payload).__name__} for {topic!r} cannot be JSON: {flaws_of(error)}; "
                "give what JSON can hold, or a model that says how it is written"
            ) from error

    def _write(self, payload: object, contract: Schema[Any] | None) -> bytes:
        if isinstance(payload, BaseModel):
            model = type(payload)
            by_alias = self._knows_its_aliases(model, model)
            return payload.model_dump_json(by_alias=by_alias, round_trip=True).encode()
        if isinstance(payload, Mapping):
            return to_json(dict(cast("Mapping[object, object]", payload)))
        if contract is None:
            return to_json(payload)
        by_alias = self._knows_its_aliases(contract, contract.model)
        return contract.dump_json(payload, by_alias=by_alias)

    def _knows_its_aliases(self, key: object, annotation: object) -> bool:
        known = self._by_alias.get(key)
        if known is None:
            known = all(map(_reads_what_it_writes, _models_in(annotation, set())))
            self._by_alias.put(key, known)
        return known


def _models_in(annotation: object, seen: set[object]) -> Iterator[type[BaseModel]]:
    """Find the models that an annotation names, and those that they name."""
    if is_pydantic_class(annotation):
        if annotation in seen:
            return
        seen.add(annotation)
        yield annotation
        parts: Iterator[object] = (field.annotation for field in annotation.model_fields.values())
    else:
        parts = iter(get_args(annotation))
    for part in parts:
        yield from _models_in(part, seen)


def _reads_what_it_writes(model: type[BaseModel]) -> bool:
    """Tell whether each field, written under its alias, is found again under it."""
    return all(
        (field.serialization_alias or name) in _read_as(name, field, model)
        for name, field in model.model_fields.items()
    )


def _read_as(name: str, field: FieldInfo, model: type[BaseModel]) -> set[str]:
    config, alias = model.model_config, field.validation_alias
    reads_name = config.get("validate_by_name") or config.get("populate_by_name")
    names = {name} if alias is None or reads_name else set[str]()
    if config.get("validate_by_alias", True):
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names.update(choice for choice in choices if isinstance(choice, str))
    return names
