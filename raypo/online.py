"""The round state machine over durable stage outputs, inside one Ray Train fit."""
