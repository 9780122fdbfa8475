#!/usr/bin/env python3
"""Backends that come and go under connections that count what happens to them.

    rolling.py load SECONDS STATE ADDRESS…      connections to port 7 of every address: short ones, ones of about a second, and
                                                one that stays; STATE tells of them in the end
    rolling.py roll SECONDS RATE SLICES SERVICES NUMBER=PROCESS…    replaces SLICES of SERVICES (NAME:PORT,…), RATE times a second,
                                                each time with one change: a backend is ready, an old one ends, or is gone
                                                when nobody is connected to it; each is the network of a process of its own
"""
import asyncio, json, os, random, sys, time

PATIENCE = 10


class Load:
    def __init__(self, seconds):
        self.until = time.monotonic() + seconds
        self.done = self.lines = 0
        self.refused, self.broken, self.slowest, self.bad = [], [], 0.0, 0

    async def connection(self, address, lines, pause):
        began = time.monotonic()
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(address, 7), PATIENCE)
        except (OSError, asyncio.TimeoutError) as error:
            self.refused.append(f"{address} after {time.monotonic() - began:.1f} s: {error!r}")
            return
        self.slowest = max(self.slowest, time.monotonic() - began)
        try:
            sent = 0
            while sent < lines and (sent == 0 or time.monotonic() < self.until):
                text = b"%032d\n" % sent
                writer.write(text)
                if await asyncio.wait_for(reader.readline(), PATIENCE) != text:
                    raise ConnectionError("the connection ended, or told something else")
                sent += 1
                self.lines += 1
                await asyncio.sleep(pause)
            self.done += 1
        except (OSError, asyncio.TimeoutError) as error:
            self.broken.append(f"{address}, line {sent} after {time.monotonic() - began:.1f} s: {error!r}")
        finally:
            writer.close()

    async def again_and_again(self, address, lines, pause):
        while time.monotonic() < self.until:
            await self.connection(address, lines(), pause)

    async def run(self, addresses):
        once, some, many = (lambda: 1), (lambda: random.randrange(4, 30)), (lambda: 1 << 30)
        kinds = [(once, 0.01)] * 2 + [(some, 0.05)] * 6 + [(many, 0.05)]
        await asyncio.gather(*(self.again_and_again(address, *kind) for address in addresses for kind in kinds))

    def tell(self, state):
        told = {"done": self.done, "lines": self.lines, "slowest_ms": round(self.slowest * 1000)}
        told |= {"refused": self.refused, "broken": self.broken}
        with open(state, "w") as file:
            json.dump(told, file)


class Roll:
    """Backends by their last number: the longest ready ends first, the longest gone comes back first."""

    READY = 6

    def __init__(self, slices, services, backends):
        self.slices, self.services = slices, [service.split(":") for service in services.split(",")]
        self.process = dict(backend.split("=") for backend in backends)
        numbers = list(self.process)
        self.ready, self.ending, self.gone = numbers[: self.READY], {}, numbers[self.READY :]
        self.write()

    def busy(self, number):
        """Is somebody connected to it, at whatever address? (A service's own, where it answers past the gateway.)"""
        nobody = {"06", "07", "0A"}  # Waiting for late segments, closed, listening.
        for table in ("tcp", "tcp6"):
            with open(f"/proc/{self.process[number]}/net/{table}") as lines:
                next(lines)
                if any(line.split()[3] not in nobody for line in lines):
                    return True
        return False

    def write(self):
        text = []
        for name, port in self.services:
            for family, form in (("IPv4", "10.244.0.{}"), ("IPv6", "2001:db8:2::{}")):
                ends = [f'{{addresses: ["{form.format(n)}"], conditions: {{ready: true}}}}' for n in self.ready]
                ends += [
                    f'{{addresses: ["{form.format(n)}"], conditions: {{ready: false, serving: true, terminating: true}}}}'
                    for n in self.ending
                ]
                text.append(
                    f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{family.lower()}, namespace: lab, "
                    f"labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {family}\n"
                    f"ports: [{{name: p, port: {port}, protocol: TCP}}]\nendpoints: [{', '.join(ends)}]\n"
                )
        with open(self.slices + ".new", "w") as file:
            file.write("---\n".join(text))
        os.replace(self.slices + ".new", self.slices)

    def step(self, now):
        if len(self.ready) < self.READY and self.gone:
            self.ready.append(self.gone.pop(0))
            return "came"
        idle = next((number for number, since in self.ending.items() if now - since > 0.5 and not self.busy(number)), None)
        if idle is not None:
            del self.ending[idle]
            self.gone.append(idle)
            return "went"
        # The last one stays: without it those that end would be given connections while they go.
        if len(self.ready) == 1:
            return "waited"
        self.ending[self.ready.pop(0)] = now
        return "ended"

    def run(self, seconds, rate):
        began, counts = time.monotonic(), {"came": 0, "ended": 0, "went": 0, "waited": 0}
        while (now := time.monotonic()) < began + seconds:
            counts[self.step(now)] += 1
            self.write()
            # The next one when it is due, or at once if this one took too long.
            time.sleep(max(0, began + sum(counts.values()) / rate - time.monotonic()))
        print(json.dumps(counts | {"seconds": round(time.monotonic() - began, 1)}))


def main():
    if sys.argv[1] == "load":
        load = Load(float(sys.argv[2]))
        asyncio.run(load.run(sys.argv[4:]))
        load.tell(sys.argv[3])
    else:
        Roll(sys.argv[4], sys.argv[5], sys.argv[6:]).run(float(sys.argv[2]), float(sys.argv[3]))


main()
