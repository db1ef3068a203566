"""It says little, and what it leaves is the same."""

import json
import os
import time

done, total = 0, 0
if os.path.exists("progress.json"):
    saved = json.load(open("progress.json"))
    done, total = saved["done"], saved["total"]
print("working")
for part in range(done, 60):
    total += part * part
    time.sleep(0.02)
    with open("progress.new", "w") as file:
        json.dump({"done": part + 1, "total": total}, file)
    os.replace("progress.new", "progress.json")
with open("result.txt", "w") as file:
    file.write(str(total))
