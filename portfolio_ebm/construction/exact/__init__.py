"""The minimum of a convex formula over convex rules, by the engine its structure asks for, and what proves it."""
