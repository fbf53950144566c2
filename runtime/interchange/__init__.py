"""Files that other programs write and read: AlpacaEval's, and preference data sets as trainers take them."""
