"""The style of a drawing: light, and dark where the reader asks for it. resvg reads the light half only."""

from __future__ import annotations

FONT, HEAD = 12.0, 16.0  # sizes of text in pixels, as below
STYLE = """\
.oomph{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;fill:#1f2328}
.oomph .page{fill:#fff}
.oomph .title{font-size:16px;font-weight:600}
.oomph .soft{fill:#59636e}
.oomph .grid{stroke:#d1d9e0;fill:none}
.oomph .axis{stroke:#818b98;fill:none}
.oomph .areas{stroke:#fff;stroke-width:.6;stroke-linejoin:round}
.oomph .over{fill:#d1242f;fill-opacity:.14}
.oomph .capacity{stroke:#d1242f;stroke-width:1.5;fill:none}
.oomph .warn{fill:#b3121f}
.oomph .strong{font-weight:600}
.oomph .halo{stroke:#fff;stroke-width:3.5;stroke-opacity:.75;fill:none}
.oomph .line{stroke:#1f2328;stroke-width:1.6;fill:none}
.oomph .pin{stroke:#1f2328;fill:none}
.oomph .dot{fill:#1f2328;stroke:#fff;stroke-width:1.5}
.oomph .dash0{stroke-dasharray:7 4}
.oomph .dash1{stroke-dasharray:1.6 3.2}
.oomph .dash2{stroke-dasharray:9 3 2 3}
@media (prefers-color-scheme:dark){
.oomph{fill:#f0f6fc}
.oomph .page{fill:#0d1117}
.oomph .soft{fill:#9198a1}
.oomph .grid{stroke:#2f353d}
.oomph .axis{stroke:#656c76}
.oomph .areas{stroke:#0d1117}
.oomph .over{fill:#f85149;fill-opacity:.22}
.oomph .capacity{stroke:#f85149}
.oomph .warn{fill:#ff7b72}
.oomph .halo{stroke:#0d1117}
.oomph .line,.oomph .pin{stroke:#f0f6fc}
.oomph .dot{fill:#f0f6fc;stroke:#0d1117}
}
"""
