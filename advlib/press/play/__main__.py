"""`python -m advlib.press.play`: measure anew what the drawings show and the site cannot make, on a CPU in minutes."""

from . import THINGS

for name, thing in THINGS.items():
    if thing.make is not None:
        print(f"{name} ...", flush=True)
        thing.make()
