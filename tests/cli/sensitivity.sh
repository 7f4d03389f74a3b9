# sensitivity: what quantizing each part alone does, and the allocator that reads it.
TINY=$DATA/checkpoints/tiny-v3
head -c 9000 "$DATA/text/calibration.txt" >text.txt
number() { "$PYTHON" -c "import json; d=json.load(open('.stdout')); assert $1, d"; }

expect 0 "$KOMPAKT" sensitivity "$TINY" -f text.txt --tokens 512 -c 256 --bands 2 -o s.json --json
cp .stdout out.json
same_bytes out.json s.json
check "every class in both bands, embedding and head" number '{(u["class"], u["first_layer"]) for u in d["units"]} >= {("head", -1), ("embedding", -1), ("attention.latent", 0), ("attention.latent", 2), ("experts.down", 1), ("experts.down", 2), ("dense.down", 0)}'
check "quantizing hurts, by its own routing or not" number 'all(u["kl_free"] > d["floor_free"] and u["kl_frozen"] > d["floor_frozen"] for u in d["units"])'
check "errors are those of 4 bits" number 'all(0.003 < u["relative_error"] < 0.01 for u in d["units"])'
expect 0 "$KOMPAKT" sensitivity "$TINY" -f text.txt --tokens 256 -c 256 --layers 2-3 --bands 1
stdout_has '^experts.down +2-3 '
stdout_lacks '^head'

expect 0 "$KOMPAKT" plan "$TINY" --size 8275136 --sensitivity s.json
stdout_has '^budget +8,275,136'
expect 0 "$KOMPAKT" convert "$TINY" a.kpk --size 8275136 --sensitivity s.json --write-recipe a.recipe
expect 0 "$KOMPAKT" convert "$TINY" b.kpk --recipe a.recipe
same_bytes a.kpk b.kpk
expect 3 "$KOMPAKT" plan "$DATA/checkpoints/v2lite" --bpw 8 --sensitivity s.json
stderr_has 'measured on a model of 4 layers'
echo '{}' >bad.json
expect 3 "$KOMPAKT" plan "$TINY" --bpw 6 --sensitivity bad.json
expect 2 "$KOMPAKT" plan "$TINY" --recipe q4 --sensitivity s.json
expect 2 "$KOMPAKT" sensitivity "$TINY" -f text.txt --format bf16
expect 2 "$KOMPAKT" sensitivity "$TINY" -f text.txt --layers 3-1
expect 2 "$KOMPAKT" sensitivity "$TINY" -f text.txt --layers 0-4

# Measured as a conversion with a calibration encodes: feedback trades error of the weights for error of the outputs.
expect 0 "$KOMPAKT" calibrate "$TINY" -f text.txt --tokens 1024 --hessian -o h.kcal
expect 0 "$KOMPAKT" sensitivity "$TINY" -f text.txt --tokens 256 -c 256 --bands 1 --calibration h.kcal -o fed.json --json
check "it says so" number 'd["calibration"] == "h.kcal" and 0.004 < d["format_error"] < 0.006'
check "errors of weights are larger" number 'all(u["relative_error"] > 0.0052 for u in d["units"] if u["class"] != "embedding")'
expect 0 "$KOMPAKT" convert "$TINY" fed.kpk --size 8275136 --sensitivity fed.json --calibration h.kcal
expect 3 "$KOMPAKT" sensitivity "$TINY" -f text.txt --calibration text.txt

# The page of compare, with it.
expect 0 "$KOMPAKT" compare "$TINY" a.kpk -f text.txt -c 256 --floor-chunks 1 --html page.html --sensitivity s.json
check "the page is well-formed and loads nothing" "$PYTHON" - page.html <<'END'
import html.parser, sys
VOID = {"meta", "rect", "line", "polygon", "polyline"}
class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(); self.open = []; self.seen = set()
    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        assert not {"src", "href"} & {name for name, _ in attributes}, attributes
        if tag not in VOID: self.open.append(tag)
    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)
    def handle_endtag(self, tag):
        if tag in VOID: return
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:], self.getpos())
        self.open.pop()
page = Page()
page.feed(open(sys.argv[1], encoding="utf-8").read())
page.close()
assert not page.open, page.open
assert {"svg", "table", "details", "title", "h1"} <= page.seen and "script" not in page.seen, page.seen
END
expect 2 "$KOMPAKT" compare "$TINY" a.kpk -f text.txt --sensitivity s.json
