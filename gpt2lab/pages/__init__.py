"""The HTML kit of every page and notebook view: text, palette, template, fragments, line chart.

`text` escapes and makes characters visible, `palette` holds the colours of light and dark pages,
`document` is the one template, `fragments` are the parts of notebook views, and `chart` draws lines
over training steps as HTML and as PNG. Nothing here knows a model.
"""
