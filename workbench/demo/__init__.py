"""The Gradio demo: a small site for visitors, served by a run of its own."""
