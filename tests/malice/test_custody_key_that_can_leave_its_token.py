"""Whoever administers the owner's HSM makes the master key so that it can be copied out later."""

from __future__ import annotations

import pytest
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass

from strongroom.envelope.custody import CustodyError, create_custody, open_custody
from strongroom.envelope.keys import DataKey

pytestmark = pytest.mark.softhsm


def pin():
    return b"vault-4711"


@pytest.fixture
def administrator(softhsm, request):
    """A session of the administrator's, in the login that the owner's custody has."""
    custody = create_custody(softhsm.uri(f"honest-{abs(hash(request.node.name))}", token="weakened"), password=pin)
    session = custody._token.open(rw=True)
    yield session
    session.close()


@pytest.mark.parametrize(
    "weak",
    [
        {Attribute.EXTRACTABLE: True},
        {Attribute.SENSITIVE: False},
        {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True},
        {Attribute.PRIVATE: False},
    ],
    ids=["extractable", "readable", "both", "without a PIN"],
)
def test_such_a_key_never_wraps_anything(softhsm, administrator, weak, request):
    name = request.node.callspec.id
    fit = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}
    administrator.generate_key(
        KeyType.AES,
        256,
        label=name,
        store=True,
        capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        template=fit | weak,
    )
    with pytest.raises(CustodyError, match="cannot be a master key"):
        open_custody(softhsm.uri(name.replace(" ", "%20"), token="weakened"), password=pin)


def test_key_put_beside_the_owners_under_its_name_is_not_taken_for_it(softhsm, administrator):
    """A second key of the name, which the attacker knows: nothing is wrapped any more, under either."""
    custody = create_custody(softhsm.uri("shadowed", token="weakened"), password=pin)
    administrator.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.LABEL: "shadowed",
            Attribute.VALUE: bytes(32),
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.ENCRYPT: True,
            Attribute.DECRYPT: True,
        }
    )
    with pytest.raises(CustodyError, match="2 secret keys shadowed"):
        custody.wrap(DataKey.generate(), context=b"c")


def test_key_exchanged_for_a_weak_one_while_the_custody_is_open_is_noticed(softhsm, administrator):
    custody = create_custody(softhsm.uri("exchanged", token="weakened"), password=pin)
    for key in administrator.get_objects({Attribute.LABEL: "exchanged"}):
        key.destroy()
    administrator.generate_key(
        KeyType.AES,
        256,
        label="exchanged",
        store=True,
        capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        template={Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: True},
    )
    with pytest.raises(CustodyError, match="extractable is yes"):
        custody.wrap(DataKey.generate(), context=b"c")
