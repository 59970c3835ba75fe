"""stub"""

from typing import Any
import streamlit as st


def show_forecast(forecast: Any) -> None:
    st.write(str(forecast))
