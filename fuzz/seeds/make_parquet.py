#!/usr/bin/env python3
"""Small parquet files of every kind of column, page and packing -> seeds/parquet.

    python3 fuzz/seeds/make_parquet.py
"""
import datetime
import decimal
import pathlib

import pyarrow
import pyarrow.parquet

HERE = pathlib.Path(__file__).resolve().parent / "parquet"
text = pyarrow.table({"text": ["a", "bb", None, "a"]})
chat = pyarrow.table({"messages": [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]]})
numbers = pyarrow.table({"text": ["a"] * 9, "i": range(9), "x": [0.5] * 9, "b": [True, False, None] * 3})
odd = pyarrow.table({
    "text": ["a"],
    "day": [datetime.date(2024, 1, 1)],
    "time": [datetime.datetime(2024, 1, 1)],
    "money": [decimal.Decimal("1.25")],
    "bytes": [b"\xff"],
    "map": pyarrow.array([[("k", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int8())),
    "half": pyarrow.array([None], pyarrow.float16()),
})


def write(name, table, **options):
    pyarrow.parquet.write_table(table, HERE / f"{name}.parquet", store_schema=False, write_statistics=False, **options)


for packing in ["none", "snappy", "gzip"]:
    write(f"text-{packing}", text, compression=packing)
    write(f"chat-{packing}", chat, compression=packing, data_page_version="2.0")
write("plain", text, compression="none", use_dictionary=False)
write("chat-plain", chat, compression="none", use_dictionary=False)
write("odd", odd, compression="none", use_deprecated_int96_timestamps=True)
for encoding in ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"]:
    write(encoding.lower(), text, compression="none", use_dictionary=False, column_encoding={"text": encoding})
encodings = {"i": "DELTA_BINARY_PACKED", "x": "BYTE_STREAM_SPLIT", "b": "RLE", "text": "PLAIN"}
write("numbers", numbers, compression="none", use_dictionary=False, column_encoding=encodings)
write("groups", numbers, compression="snappy", row_group_size=4)
