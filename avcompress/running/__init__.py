"""Running a recipe: all cheap checks, the stages, the engines, and what is said of them."""
