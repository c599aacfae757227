"""Key material is found in a footer whichever way its writer orders the fields."""

import json

import pytest

from strongroom.envelope.parquet_crypto import _key_material

FIELDS = {"masterKeyID": "output.x@1/column/id", "wrappedDEK": "nVxo", "doubleWrapping": False, "isFooterKey": False}


@pytest.mark.parametrize("first", FIELDS)
def test_material_is_found_whatever_field_comes_first(first):
    ordered = {first: FIELDS[first], **FIELDS}
    material = json.dumps(ordered, separators=(",", ":")).encode()
    footer = b'\x18\x84{"\x00' + material + b"\x00\x80\xc6" + material + b"\x00"
    assert list(_key_material(footer)) == [("output.x@1/column/id", "nVxo")] * 2
