"""How the shipped packs are made: data, losses, one loop, and a recipe per trained thing."""
