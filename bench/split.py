TITLE = GOAL = ""
