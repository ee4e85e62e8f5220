"""An agent without any package: it calls the tool ``take`` where there is one, else it climbs."""

import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    answer = {"id": request["id"], "content": "climb"}
    if request["tools"]:
        call = {"id": "c1", "function": {"name": "take", "arguments": '{"bottle": "rum"}'}}
        answer = {"id": request["id"], "content": "", "tool_calls": [call]}
    print(json.dumps(answer), flush=True)
