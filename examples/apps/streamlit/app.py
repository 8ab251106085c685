import pandas as pd
import streamlit as st

st.set_page_config(page_title="Nest egg", page_icon="🥚")
st.title("Nest egg")
st.caption("Put the same sum aside every month and let it grow.")

left, right = st.columns(2)
monthly = left.slider("Every month", 50, 1000, 200, step=50)
years = right.slider("Years", 1, 40, 20)
rate = st.slider("Interest, % a year", 0.0, 10.0, 4.0, step=0.5)

balance, rows = 0.0, []
for month in range(1, years * 12 + 1):
    balance = balance * (1 + rate / 1200) + monthly
    if month % 12 == 0:
        rows.append({"Year": month // 12, "Paid in": monthly * month, "Interest": balance - monthly * month})

paid = monthly * years * 12
one, two, three = st.columns(3)
one.metric("In the end", f"{balance:,.0f}")
two.metric("Paid in", f"{paid:,.0f}")
three.metric("Interest", f"{balance - paid:,.0f}")
st.area_chart(pd.DataFrame(rows), x="Year", y=["Paid in", "Interest"], color=["#c9a227", "#5f7a3a"])
