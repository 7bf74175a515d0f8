"""The embedded study: package data that `leaven new quickstart` writes."""
