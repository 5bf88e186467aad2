def render(cells): return ""
