from collections import Counter
from string import ascii_lowercase as LETTERS

import gradio as gr


def shift(text: str, by: int) -> tuple[str, dict[str, float]]:
    turned = LETTERS[by:] + LETTERS[:by]
    cipher = text.translate(str.maketrans(LETTERS + LETTERS.upper(), turned + turned.upper()))
    counts = Counter(letter for letter in cipher.lower() if letter in LETTERS)
    total = sum(counts.values()) or 1
    return cipher, {letter: count / total for letter, count in counts.most_common(5)}


with gr.Blocks(title="Cipher desk") as demo:
    gr.Markdown("# Cipher desk\nCaesar shifted every letter by three. In English `e` leads; find it and you know the key.")
    with gr.Row():
        with gr.Column():
            text = gr.Textbox("Meet me at the bee house at seven", label="Message", lines=3)
            by = gr.Slider(0, 25, 3, step=1, label="Shift")
            encode = gr.Button("Encipher", variant="primary")
        with gr.Column():
            cipher = gr.Textbox(label="Cipher", lines=3)
            letters = gr.Label(label="Most frequent letters")
    encode.click(shift, [text, by], [cipher, letters])

# Fonts of the visitor's own machine, so that nothing is fetched from elsewhere.
demo.launch(theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]))
