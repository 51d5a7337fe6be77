"""Single channels of a network: what they hold, where they flow, and how they are scaled."""
