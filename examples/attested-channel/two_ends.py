"""Two workloads attest each other, talk, renew their evidence, and one gets an identity for ordinary TLS.

Runs on a laptop: both ends play workloads of the simulated TEE, which protects nothing. Inside a real TEE,
`providers.detect()` takes the place of `simulated_tee`, and the rest stays as it is.
"""

import asyncio
import hashlib

from strongroom.attestation.async_channel import AsyncListener, connect_soon
from strongroom.attestation.mesh_identity import MeshAuthority, verify_identity
from strongroom.attestation.renewing import keep_attested
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.testing import simulated_platform, simulated_tee, simulated_verifier

JOB = hashlib.sha384(b"a signed job").digest()


async def main() -> None:
    """Hold the whole conversation in one event loop."""
    with simulated_platform() as platform:
        # The driver listens. A stranger costs it a TLS handshake, never a quote.
        listener = await AsyncListener.open(
            ("127.0.0.1", 0),
            keys=WorkloadKeys.generate(),
            role=Role.DRIVER,
            tee=simulated_tee(Role.DRIVER, platform=platform, job_digest=JOB),
            verifier=simulated_verifier(platform),
            job_digest=JOB,
        )
        async with listener:
            coming = connect_soon(
                listener.address,
                keys=WorkloadKeys.generate(),
                role=Role.WORKER,
                expected_role=Role.DRIVER,
                tee=simulated_tee(Role.WORKER, platform=platform, job_digest=JOB),
                verifier=simulated_verifier(platform),
                job_digest=JOB,
            )
            worker, driver = await asyncio.gather(coming, listener.accept(deadline=15))
        print(f"the driver sees a {driver.peer_role.value}, tier {driver.peer.tier.value}")

        # What travels from here on is between these two alone.
        await driver.send({"task": 1})
        print("the worker heard", await worker.receive())

        # Evidence grows old: ask for it again now, and every ten minutes from now on.
        listening = asyncio.create_task(worker.receive())
        await driver.reattest()
        keeping = asyncio.create_task(keep_attested(driver))
        print("the worker's evidence was renewed")

        # For servers that speak plain TLS: a certificate for an hour, over the key that was attested.
        authority = MeshAuthority(job_digest=JOB)
        identity = authority.issue(driver)
        now = driver.attested_at
        who = verify_identity(identity, authority=authority.certificate, job_digest=JOB, now=now)
        print(f"issued to a {who.role.value} until {who.not_after:%H:%M}")

        for task in (keeping, listening):
            task.cancel()
        await asyncio.gather(keeping, listening, return_exceptions=True)
        driver.close()
        worker.close()


if __name__ == "__main__":
    asyncio.run(main())
