"""How each system is trained: functions that return a frozen Recipe."""
