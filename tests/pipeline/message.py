"""Protobuf messages as the tests read them: without their schema, by the numbers of fields."""


def fields(message):
    """(number, raw bytes with the key, value) of each field: integers for varints, else bytes."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            at += 1
            value |= (message[at - 1] & 127) << shift
            shift += 7
            if message[at - 1] < 128:
                return value

    while at < len(message):
        begin, key = at, number()
        kind = key & 7
        value = number() if kind in (0, 2) else 0
        if kind:
            size = value if kind == 2 else {1: 8, 5: 4}[kind]
            at, value = at + size, message[at : at + size]
        yield key >> 3, message[begin:at], value
