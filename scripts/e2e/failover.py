#!/usr/bin/env python3
"""Many connections to several services, and which of them are still there after something happened.

    failover.py COUNT STATE NAME=ADDRESS…     opens COUNT to port 7 of each, and has each say something twice a second. STATE
                                              gets the address and own port of each; when STATE.ask is there, every connection is asked
                                              once more, and STATE.told gets which answered within PATIENCE seconds
"""
import asyncio, json, os, sys

PATIENCE = 8


def write(path, what):
    with open(path + ".new", "w") as file:
        json.dump(what, file)
    os.replace(path + ".new", path)


class Connection:
    def __init__(self, reader, writer):
        self.reader, self.writer, self.sent, self.heard, self.over = reader, writer, 0, 0, False
        self.name = f"{writer.get_extra_info('peername')[0]} {writer.get_extra_info('sockname')[1]}"

    def say(self):
        if not self.over:
            self.sent += 1
            self.writer.write(b"%030d\n" % self.sent)

    async def listen(self):
        try:
            while line := await self.reader.readline():
                self.heard = int(line)
        except OSError:
            pass
        self.over = True

    async def talk(self, quiet):
        while not quiet.is_set():
            self.say()
            await asyncio.sleep(0.5)


async def main():
    count, state, targets = int(sys.argv[1]), sys.argv[2], [target.split("=") for target in sys.argv[3:]]
    all_of = {
        name: [Connection(*await asyncio.open_connection(address, 7)) for _ in range(count)] for name, address in targets
    }
    every = [connection for group in all_of.values() for connection in group]
    quiet = asyncio.Event()
    tasks = [asyncio.create_task(work) for one in every for work in (one.listen(), one.talk(quiet))]
    while not all(one.heard for one in every):
        await asyncio.sleep(0.02)
    write(state, {name: [one.name for one in group] for name, group in all_of.items()})
    while not os.path.exists(state + ".ask"):
        await asyncio.sleep(0.02)
    quiet.set()
    for one in every:
        one.say()
    for _ in range(PATIENCE * 50):
        if all(one.over or one.heard == one.sent for one in every):
            break
        await asyncio.sleep(0.02)
    alive = lambda one: not one.over and one.heard == one.sent
    write(state + ".told", {name: [one.name for one in group if alive(one)] for name, group in all_of.items()})
    for task in tasks:
        task.cancel()
    for one in every:
        one.writer.transport.abort()


asyncio.run(main())
