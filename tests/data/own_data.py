"""One conversation as each of the formats writes it; docs/own_data.md has the same examples."""

QUESTION = "Which colour has the ball in the second picture?"
ANSWER = "It is dark red."
FILES = ["val2017/000000000001.jpg", "val2017/000000000002.jpg"]
TEXT = f"First <image> then <image>\n{QUESTION}"

LLAVA = {
    "id": "7",
    "image": FILES,
    "conversations": [{"from": "human", "value": TEXT}, {"from": "gpt", "value": ANSWER}],
}
SHAREGPT = {
    "images": FILES,
    "conversations": [{"from": "user", "value": TEXT}, {"from": "assistant", "value": ANSWER}],
}
LLAMA_FACTORY = {
    "messages": [{"role": "user", "content": TEXT}, {"role": "assistant", "content": ANSWER}],
    "images": FILES,
}
MS_SWIFT = {**LLAMA_FACTORY, "images": [{"path": name} for name in FILES]}
PARTS = [
    {"type": "text", "text": "First "},
    {"type": "image"},
    {"type": "text", "text": " then "},
    {"type": "image"},
    {"type": "text", "text": f"\n{QUESTION}"},
]
TRL = {
    "messages": [
        {"role": "user", "content": PARTS},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
    ],
    "images": FILES,
}
TRL_PROMPT = {"prompt": TRL["messages"][:1], "completion": TRL["messages"][1:], "images": FILES}
OWN = iter(FILES)
PARTS_WITH_FILES = {
    "messages": [
        {
            "role": "user",
            "content": [p | {"image": next(OWN)} if p["type"] == "image" else p for p in PARTS],
        },
        {"role": "assistant", "content": ANSWER},
    ]
}
FORMATS = {
    "llava": LLAVA,
    "sharegpt": SHAREGPT,
    "llama-factory": LLAMA_FACTORY,
    "ms-swift": MS_SWIFT,
    "trl": TRL,
    "trl prompt": TRL_PROMPT,
    "parts": PARTS_WITH_FILES,
}
EARLIER = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "<image> What is this?"},
    {"role": "assistant", "content": "A ball."},
    {"role": "user", "content": "And this? <image>"},
    {"role": "assistant", "content": "Its shadow."},
]
TURNS = {"messages": EARLIER, "images": FILES}
"""Several turns, with images in two of them."""
