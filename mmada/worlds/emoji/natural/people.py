"""Whom stories are about, and what they have. A fifth of the names, by hash, is never trained."""

from __future__ import annotations

from functools import cache

from mmada.worlds.emoji.split import Split, stable_hash

__all__ = ["THINGS", "names"]

_HELD_OUT = 0.2

_NAMES = """
Anna Peter Sara John Mary James Linda Robert Susan Michael Karen David Nancy William Lisa Richard Betty Joseph Helen Thomas Sandra Charles Donna
Daniel Carol Matthew Ruth Anthony Sharon Mark Michelle Steven Laura Andrew Emily Joshua Kimberly Kevin Deborah Brian Dorothy George Amy Edward
Angela Ronald Melissa Timothy Brenda Jason Emma Jeffrey Olivia Ryan Cynthia Jacob Marie Gary Janet Nicholas Catherine Eric Frances Jonathan
Christine Stephen Samantha Larry Debra Justin Rachel Scott Carolyn Brandon Virginia Benjamin Maria Gregory Heather Frank Diane Raymond Julie
Patrick Joyce Jack Victoria Dennis Kelly Jerry Christina Tyler Joan Aaron Evelyn Jose Lauren Henry Judith Adam Megan Douglas Cheryl Nathan
Andrea Peggy Hannah Zachary Martha Kyle Jacqueline Walter Ella Harold Grace Carl Teresa Arthur Gloria Roger Rose Keith Doris Lucas Sophie Felix
Clara Oscar Nina Hugo Elena Ivan Olga Boris Irina Pavel Mila Jan Petra Karl Ingrid Lars Astrid Sven Freya Erik Greta Otto Heidi Klaus Marta
Pedro Lucia Carlos Carmen Diego Pilar Luis Ines Miguel Paula Juan Sofia Pablo Rita Marco Giulia Luca Chiara Paolo Bianca Giorgio Alba Pierre
Camille Louis Chloe Antoine Manon Jules Amelie Ali Fatima Omid Leila Hassan Amina Yusuf Zahra Ibrahim Nadia Ahmed Salma Tariq Yasmin Raj Priya
Arjun Anita Vikram Meera Sanjay Kavita Ravi Lakshmi Wei Mei Chen Ling Hiro Yuki Kenji Sakura Takeshi Aiko Min Jin Soo Hana Kwame Ama Kofi Abena
Chidi Ngozi Tunde Zola Thabo Lindiwe Mateo Valentina Thiago Isabel Bruno Larissa Caio Dara Finn Niamh Liam Aoife Sean Maeve Owen Bronwyn Rhys
Gwen Ewan Isla Angus Fiona Harry Lucy Alfie Daisy Archie Poppy Freddie Millie Toby Ruby Jake Molly Charlie Amber Josh Jade Alex Robin Casey
Jordan Billy Tina Bobby Jenny Johnny Wendy Jimmy Betsy Eddie Kate Kathy Mike Nick Nora Vera Yara Zara Ada Ira Uma Ian Guy Roy Ray Jay Lee Ted
Ned Bob Rob Dan Ken Ron Jim Tim Pat Sue Ann Liz Meg Peg Gus Hal Ike Ivy Joy Kai Lou Mae Noa Pia Rex Sid Una Val Wes Xena Yan Zack
"""

_THINGS = """
coins marbles stickers stamps shells cards beads buttons nuts tickets photos pebbles pencils pens books crayons toys blocks candies sweets
chocolates eggs pears plums peaches grapes berries beans seeds leaves sticks feathers badges medals tokens dollars cents euros bricks bottles
cups plates spoons bags boxes jars letters postcards notebooks pages puzzles games dolls kites ribbons flowers daisies balloons cakes muffins
cupcakes pancakes sandwiches crackers rolls potatoes onions carrots tomatoes batteries keys rings socks gloves hats towels pillows candles
magnets dice tiles ropes nails screws points chestnuts acorns pinecones
"""
THINGS = tuple(_THINGS.split())
"""What people have so many of, in the plural."""


@cache
def names(split: Split) -> tuple[str, ...]:
    """First names of one side of the split."""
    return tuple(name for name in _NAMES.split() if (stable_hash("name", name) < _HELD_OUT) == (split == "test"))
