"""An agent that does, for every episode whose id holds a word, what the word says; else it climbs."""

import json
import os
import subprocess
import sys
import time

print("ready\nset", file=sys.stderr)
kept = []
for line in sys.stdin:
    request = json.loads(line)
    if "forget" in request:
        print("told to forget", *request["forget"], file=sys.stderr, flush=True)
        continue
    episode, answer = request["episode"], {"id": request["id"], "content": "climb"}
    if "errs" in episode:  # something that is not killed with it holds its standard error
        subprocess.Popen(["sleep", "20"], stdout=subprocess.DEVNULL, start_new_session=True)
    if "outs" in episode:  # or its standard output
        subprocess.Popen(["sleep", "20"], stderr=subprocess.DEVNULL, start_new_session=True)
    if "holds" in episode:
        child = subprocess.Popen(["sleep", "60"])
        answer["content"] = str(child.pid)
    if "die" in episode:
        print("Traceback ...\nMemoryError: no more", file=sys.stderr, flush=True)
        sys.exit(7)
    if "leave" in episode:  # something that holds standard output
        subprocess.Popen(["sleep", "3600"])
        sys.exit(5)
    if "killed" in episode:
        os.kill(os.getpid(), 9)
    if "flood" in episode:
        while True:
            os.write(1, b"x" * 65536)
    if "mute" in episode:
        time.sleep(3600)
    if "silent" in episode:
        continue
    if "chatty" in episode:
        print("Let me think ...", flush=True)
    if "sorry" in episode:
        answer = {"id": request["id"], "error": "no key left"}
    if "wrong" in episode:
        answer["content"] = 5
    if "stranger" in episode:
        answer["id"] = 10**6
    if "spawn" in episode:
        child = subprocess.Popen(["sleep", "3600"])
        answer["content"] = f"climb {child.pid} {os.getpid()}"
    if "pid" in episode:
        answer["content"] = f"climb {os.getpid()}"
    if "twice" in episode:
        print(json.dumps(answer))
    if "late" in episode:  # four episodes of one length are answered when all have asked, the last first
        kept.append(answer)
        if len(kept) == 4:
            print("\n".join(map(json.dumps, reversed(kept))), flush=True)
            kept = []
        continue
    answer["forget"] = True
    print(json.dumps(answer), flush=True)
    if "parts" in episode:
        sys.exit(0)
