"""Damage to files: single bits, stretches of bytes, and what each format is made of; all from given dice."""

import csv
import io
import json
import random
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq

ODD = (
    None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", "x" * 999, "\0", [], {}, [[]],
    {"a": None},
)  # fmt: skip
ODD_CELLS = (
    b"", b"../../etc/passwd", b"/dev/zero", b"nan", b"\0", b'"', b"\xff\xfe", b"x" * 200_000, b"1e999", b"-1",
)  # fmt: skip


def one_byte(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """Cut, repeat, swap, blank or insert a stretch."""
    i, j = sorted(rng.sample(range(len(data) + 1), 2))
    k = rng.randrange(len(data) + 1)
    part = data[i:j]
    return rng.choice(
        [
            lambda: data[:i],
            lambda: data[i:],
            lambda: data[:i] + data[j:],
            lambda: data[:j] + part + data[j:],
            lambda: data[j:] + data[:j],
            lambda: data[:i] + bytes(j - i) + data[j:],
            lambda: data[:k] + rng.randbytes(rng.randrange(1, 64)) + data[k:],
            lambda: b"",
            lambda: data + data,
        ]
    )()


def of_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, drop or double a node anywhere in the tree."""
    value = json.loads(data)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(value)
    node, key = rng.choice(places)
    action = rng.randrange(8)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    elif action == 2 and isinstance(node, list):
        node.append(node[key])
    elif action == 3:
        return json.dumps(rng.choice(ODD)).encode()
    else:
        node[key] = rng.choice(ODD)
    return json.dumps(value).encode()


def of_lines(data: bytes, rng: random.Random) -> bytes:
    """Damage one of several lines of JSON."""
    lines = data.split(b"\n")
    place = rng.choice([i for i, line in enumerate(lines) if line])
    lines[place] = of_json(lines[place], rng)
    return b"\n".join(lines)


def of_csv(data: bytes, rng: random.Random) -> bytes:
    lines = [line.split(b",") for line in data.split(b"\n")]
    row = rng.choice(lines)
    place = rng.randrange(len(row))
    action = rng.randrange(5)
    if action == 0:
        del row[place]
    elif action == 1:
        row.insert(place, b"more")
    elif action == 2:
        lines.append(row)
    else:
        row[place] = rng.choice(ODD_CELLS)
    return b"\n".join(b",".join(line) for line in lines)


def of_parquet(data: bytes, rng: random.Random) -> bytes:
    """Drop, rename, retype, blank, cut or reorder a column or rows of a valid table."""
    table = pq.read_table(io.BytesIO(data))
    place = rng.randrange(table.num_columns)
    name, rows = table.column_names[place], table.num_rows
    odd = rng.choice(
        [
            lambda: table.drop([name]),
            lambda: table.rename_columns([f"{n}x" if n == name else n for n in table.column_names]),
            lambda: table.set_column(place, name, pa.nulls(rows)),
            lambda: table.set_column(place, name, pa.array(["x"] * rows)),
            lambda: table.set_column(place, name, pa.array([float("nan")] * rows)),
            lambda: table.set_column(place, name, pa.array([-(2**62)] * rows)),
            lambda: table.set_column(place, name, pa.array([[1.0] * (i % 3) for i in range(rows)])),
            lambda: table.set_column(place, name, pa.array([{"bytes": b"x"}] * rows)),
            lambda: table.slice(rng.randrange(rows)),
            lambda: table.slice(0, 0),
            lambda: table.take(list(reversed(range(rows)))),
            lambda: pa.concat_tables([table, table]),
        ]
    )()
    buffer = io.BytesIO()
    pq.write_table(odd, buffer)
    return buffer.getvalue()


def of_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Damage the header, which says what the bytes behind it are, or state another length of it."""
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], data[8 + size :]
    if rng.randrange(4) == 0:
        return rng.choice([0, 1, size - 8, size + 8, 2**27, 2**63]).to_bytes(8, "little") + header + rest
    header = of_json(header, rng)
    return len(header).to_bytes(8, "little") + header + rest


def of_zip(data: bytes, rng: random.Random) -> bytes:
    """Damage, drop, rename, double, empty or deflate a member; checksums are written anew."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [[name, archive.read(name)] for name in archive.namelist()]
    place, how = rng.randrange(len(members)), rng.randrange(8)
    if how == 0:
        del members[place]
    elif how == 1:
        members[place][0] += "x"
    elif how == 2:
        members.append([members[place][0], b"twice"])
    elif how == 3:
        members[place][1] = b""
    elif how < 6 and members[place][1]:
        members[place][1] = (of_bytes if how == 4 else one_byte)(members[place][1], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if how == 6 else zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def swap(first, second):
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def relabel(path):
    rows = list(csv.DictReader(path.open()))
    rows[0]["label"] = "Down" if rows[0]["label"] != "Down" else "Up"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
