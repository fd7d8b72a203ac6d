"""What ordinary drawing requests are wrapped in, and what is said to a painter that asks for no picture."""

from __future__ import annotations

__all__ = ["DRAW_FRAMES", "NOT_DRAWINGS"]

DRAW_FRAMES: tuple[str, ...] = (
    "{}", "{}", "{}", "{}", "{}", "{}.", "{} please", "{}, please", "{} pls", "{}!", "Draw {}", "Draw {}.", "draw {}", "draw {}", "draw {}.", "Draw {}!",
    "please draw {}", "Please draw {}.", "pls draw {}", "plz draw me {}", "draw me {}", "Draw me {}, please.", "draw us {}",
    "can you draw {}", "can you draw {}?", "Can you draw {} for me?", "can u draw {}", "could you draw {}", "Could you please draw {}?",
    "would you draw {}?", "Would you please paint {}?", "would you mind drawing {}?", "do you know how to draw {}?",
    "I want {}", "i want {}.", "i want you to draw {}", "I'd like {}.", "i'd like to see {}", "I would like you to draw {}.", "I'd love to see {}!",
    "I need {}", "i need a picture of {}", "we want {}", "my daughter wants {}", "for my son: {}", "My kid would like {}.", "the children want {}",
    "show me {}", "Show me {}.", "show {}", "please show {}", "let's see {}", "Let's draw {}", "let me see {}", "may I see {}?", "can I see {}?",
    "make {}", "make me {}", "make a picture with {}", "Make an image of {}", "make a drawing of {}", "create {}", "Create a picture that shows {}",
    "give me {}", "gimme {}", "Give me a picture of {}", "give us {}", "paint {}", "Paint me {}", "paint a picture of {}", "sketch {}", "Sketch me {}",
    "a picture of {}", "picture of {}", "Picture of {}, please", "an image of {}", "image of {}", "image: {}", "drawing of {}", "a drawing with {}",
    "just {}", "only {}", "now {}", "now draw {}", "Next: {}", "hey, draw {}", "Hi! Can you draw {}?", "hello, please draw {}", "ok, draw {}",
    "can you make {}?", "can I have {}?", "Can I get {}?", "could I have a picture of {}?", "how about {}?", "What about {}?", "and {}?",
    "put {} in the picture", "there should be {}", "There should be {} in the picture.", "I wish to see {}", "generate {}", "Generate an image of {}.",
    "render {}", "produce an image with {}", "design {}", "display {}", "illustrate {}", "try to draw {}", "quick sketch of {}", "wanna see {}",
    "help me draw {}", "Draw something: {}", "a scene with {}", "Imagine {}", "{} in one picture", "I am looking for {}", "Kindly draw {}.",
    "draw a picture of {}", "Draw a picture with {}.", "draw an image of {} for me", "i want a picture with {}", "thanks! now {}", "so draw {}",
)  # fmt: skip

NOT_DRAWINGS: tuple[str, ...] = (
    "hello", "hi", "hi there", "hey", "good morning", "good evening", "how are you?", "who are you?", "what can you do?", "thanks", "thank you", "bye",
    "help", "yes", "no", "why?", "what is 3 + 4?", "12 - 5", "what time is it?", "what is a {noun}?", "where is the {noun}?", "who is the {noun}?",
    "i like {noun}s", "you are {adj}", "it is {adj}", "i {verb}", "asdf", "test", "lol", "what?", "ok", "why is the {noun} {adj}?", "do you {verb}?",
    "the {noun} is {adj}", "something {adj}", "anything", "surprise me", "whatever you like", "i am {adj}", "tell me more", "{verb}", "{adj}",
)  # fmt: skip
