#!/usr/bin/env python3
"""Writes a made-up job of seven tools, to measure what rounded weights cost: `benches/make_actions.py OUTPUT_DIR [TRAIN [TEST]]`.

train.jsonl (4,000 rows), test.jsonl (1,000 rows, none of them in train.jsonl) and tools.json, in the form of the quickstart. A request names an
action of a phone in one of several sentences; the arguments are stretches of the request. The seed is fixed.
"""
import json
import pathlib
import random
import sys

FIRST = "Anna Boris Carla David Elena Farid Greta Hanno Ines Jonas Karim Lena Milan Nadja Oskar Paula Quinn Rosa Samir Tilda".split()
LAST = "Adler Brandt Costa Dahl Egger Fuchs Gruber Holm Ivanov Jansen Keller Lund Moretti Novak Olsen Perez Roth Silva Tanaka Weber".split()
NAMES = [f"{first} {last}" for first in FIRST for last in LAST]
COLOURS = "blue silver golden cold long little red empty quiet broken green early".split()
NOUNS = "river train moon rain hour morning road bird balloon street garden harbour bridge window".split()
SONGS = [f"{colour} {noun}" for colour in COLOURS for noun in NOUNS]
PLACES = [f"{what} in {noun} street" for what in "the library,the museum,the market,the cinema,the bakery,the hospital,the school,the bank".split(",") for noun in NOUNS]
THINGS = "buy milk,call the bank,water the plants,pay the rent,pack the bags,feed the cat,book a table,print the tickets,wash the car,mail the letter".split(",")
TEXTS = "I am late,see you soon,dinner is ready,where are you,the meeting is over,happy birthday,the train is gone,bring some bread".split(",")
TIMES = [f"{hour}:{minute:02}" for hour in range(5, 23) for minute in (0, 15, 30, 45)]
LEVELS = [str(level) for level in range(101)]

# Tool: what it does, its arguments, its sentences.
TOOLS = {
    "set_alarm": ("Sets an alarm.", {"time": TIMES}, ["Wake me at {time}.", "Set an alarm for {time}.", "I have to get up at {time}.", "Alarm at {time}, please."]),
    "send_message": ("Sends a message.", {"person": NAMES, "text": TEXTS}, ["Tell {person}: {text}.", "Write {person} that {text}.", "Send {person} this: {text}.", "Text {person} {text}."]),
    "call_person": ("Calls a person.", {"person": NAMES}, ["Call {person}.", "Ring {person} for me.", "I want to talk to {person}.", "Get {person} on the phone."]),
    "play_music": ("Plays a song.", {"song": SONGS}, ["Play {song}.", "I want to hear {song}.", "Put on {song}.", "Let me listen to {song}."]),
    "show_way": ("Shows the way to a place.", {"place": PLACES}, ["How do I get to {place}?", "Take me to {place}.", "Show me the way to {place}.", "Where is {place}?"]),
    "add_reminder": ("Reminds of something.", {"what": THINGS, "time": TIMES}, ["Remind me to {what} at {time}.", "At {time} I must {what}.", "Do not let me forget to {what} at {time}."]),
    "set_brightness": ("Sets how bright the screen is.", {"level": LEVELS}, ["Make the screen {level} percent bright.", "Brightness to {level}.", "Set the display to {level} percent."]),
}
POLITE = ["", "", "", "Hey, ", "Quick question: ", "Hello. "]


def declaration(name):
    text, arguments, _ = TOOLS[name]
    properties = {argument: {"type": "string", "description": argument} for argument in arguments}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return {"type": "function", "function": {"name": name, "description": text, "parameters": parameters}}


def row(rng, name):
    _, arguments, sentences = TOOLS[name]
    values = {argument: rng.choice(choices) for argument, choices in arguments.items()}
    text = rng.choice(POLITE) + rng.choice(sentences).format(**values)
    return {"user_content": text, "tool_name": name, "tool_arguments": json.dumps(values)}


def main():
    folder = pathlib.Path(sys.argv[1])
    counts = [int(count) for count in sys.argv[2:4]]
    train, test = (counts + [4000, 1000][len(counts):])
    rng, seen, rows = random.Random(1), set(), []
    for number in range(train + test):
        name, drawn = rng.choice(list(TOOLS)), None
        # The last rows are the test's: requests that were not drawn before, and no two of them alike.
        while drawn is None or (number >= train and drawn["user_content"] in seen):
            drawn = row(rng, name)
        seen.add(drawn["user_content"])
        rows.append(drawn)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in [("train", rows[:train]), ("test", rows[train:])]:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "tools.json").write_text(json.dumps([declaration(name) for name in TOOLS], indent=2) + "\n")


if __name__ == "__main__":
    main()
