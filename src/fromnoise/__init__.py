"""fromnoise"""
