"""The neighbours of the example notebook: an airline, a weather office and a broker, all on this machine.

In earnest they are elsewhere, and a notebook begins with ``strongroom.notebook.connect``. The data are the demo's.
"""

import tempfile
from pathlib import Path

from strongroom.demo.data import OWNERS, lay_out
from strongroom.demo.world import PURPOSE, World
from strongroom.envelope.custody import create_custody
from strongroom.jobs.spec import JobInput
from strongroom.notebook import Session

COLUMNS = {
    "flights": ("carrier", "origin", "dest", "month", "day", "hour", "dep_delay", "flight"),
    "weather": ("origin", "month", "day", "hour", "wind_speed", "visib"),
}


def open_world():
    """Start the broker, and let both owners encrypt, permit SQL and register; the world is closed by ``close``."""
    tables = {owner: OWNERS[owner] for owner in ("airline", "weather-office")}
    world = World.build(Path(tempfile.mkdtemp(prefix="strongroom-neighbours-")), tables=tables)
    world.start_broker()
    world.enrol_everyone()
    for home in world.owners.values():
        source = lay_out(home.dataset, home.directory)
        custody = create_custody(f"file:{home.directory / 'master.key'}", password=home.reveal_password)
        home.owner.encrypt([source], home.encrypted, dataset=home.dataset, version=1, custody=custody, nulls=("", "NA"))
        source.unlink()
        policy = home.owner.permit(world.policy_toml(home, programs=()))
        home.owner.register(home.encrypted, broker=home.broker, policy=policy, password=home.reveal_password)
    return world


def open_session(world):
    """Return a session of the world's analyst."""
    inputs = {
        home.dataset: JobInput(owner=home.owner.key.party, columns=COLUMNS[home.dataset], location=str(home.encrypted))
        for home in world.owners.values()
    }
    return Session(
        analyst=world.analyst,
        broker=world.analyst.attest_broker(world.broker_url),
        host=world.platform,
        purpose=PURPOSE,
        inputs=inputs,
    )
