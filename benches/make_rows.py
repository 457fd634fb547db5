"""Writes rows of random words that call tools, for measurements of large datasets: `python3 benches/make_rows.py 100000 > rows.jsonl`.

Each row declares one of 400 sets of 2 to 5 tools of its own, as xLAM's do.
"""

import json
import random
import sys

VERBS = "get set find create delete update list search send book cancel check convert compute open close".split()
NOUNS = "weather calendar event contact email flight hotel stock currency document task reminder note song recipe route".split()
WORDS = (
    "the of a to in for on with at by from please tomorrow today morning evening my your next last week price city of london paris "
    "tokyo large small blue report number"
).split()


def words(count):
    return " ".join(random.choices(WORDS, k=count))


def tool(number):
    verb, noun = random.choice(VERBS), random.choice(NOUNS)
    properties = {
        f"{random.choice(NOUNS)}_{j}": {"type": "string", "description": words(8)} for j in range(random.randint(1, 4))
    }
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    function = {"name": f"{verb}_{noun}_{number}", "description": words(10), "parameters": parameters}
    return {"type": "function", "function": function}


random.seed(7)
sets = [[tool(i * 10 + k) for k in range(random.randint(2, 5))] for i in range(400)]
for row in range(int(sys.argv[1])):
    tools = random.choice(sets)
    function = random.choice(tools)["function"]
    arguments = {name: words(2) for name in function["parameters"]["properties"]}
    call = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    user = {"role": "user", "content": f"{words(random.randint(5, 30))} {row}"}
    print(json.dumps({"messages": [user, {"role": "assistant", "tool_calls": [call]}], "tools": tools}))
