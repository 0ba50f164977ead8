"""What the folder of a run or stage holds, and who may write it."""
