#!/usr/bin/env python3
"""many.py DIR COUNT: COUNT files of 100 to 900 bytes, a hundred to a folder."""
import os
import sys

root, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    if number % 100 == 0:
        folder = os.path.join(root, f"{number // 10000:04}", f"{number // 100 % 100:02}")
        os.makedirs(folder)
    with open(os.path.join(folder, f"{number:07}.txt"), "w") as out:
        out.write((f"record {number} " + f"{number * 2654435761 % 2**32:08x} " * 8)[: 20 + number * 7 % 60] * (5 + number % 11))
