"""A reward server: it rewards images that are warm, red rather than blue. docs/reward-servers.md has the protocol.

pip install fastapi uvicorn pillow
python server.py 8000
"""

import base64
import io
import sys

import uvicorn
from fastapi import FastAPI
from PIL import Image, ImageStat
from pydantic import BaseModel

app = FastAPI()


class Batch(BaseModel):
    images: list[str]  # PNGs in base64
    prompts: list[str]
    metadata: list[dict]  # what a file of prompts says besides; empty if nothing


@app.post("/score")
def score(batch: Batch) -> dict:
    images = [Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB") for image in batch.images]
    means = [[mean / 255 for mean in ImageStat.Stat(image).mean] for image in images]
    return {
        "scores": [red - blue for red, _, blue in means],
        "details": {"brightness": [sum(mean) / 3 for mean in means]},  # may be left out
    }


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
