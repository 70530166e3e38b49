"""What metrics.json holds, as a table for people: the scores, and what they depend on."""

from typing import Any

Record = dict[str, Any]  # what metrics.json holds
HEADINGS = {
    "fid": "Fréchet distance",
    "fid_infinity": "Fréchet distance, N → ∞",
    "kid": "KID",
    "inception_score": "Inception Score",
    "precision": "precision",
    "recall": "recall",
}
OF_METRICS = {  # what is missing may be a metric, as --metrics has it
    "is": "Inception Score",
    "prc": "precision and recall",
    "copies": "copies of training images",
    "bits": "bits per dimension",
}
OF_INCEPTION = {"fid": "FID", "fid_infinity": "FID∞"}  # no other features are called so


def table(record: Record) -> str:
    """The scores with their 95 % intervals in Markdown, and below them their circumstances."""
    headings = HEADINGS
    if record["extractor"].get("name") == "inception":
        headings = HEADINGS | OF_INCEPTION
    lines = ["| score | value | 95 % interval |", "|---|---|---|"]
    for key, score in record["scores"].items():
        value, low, high = (f"{score[part]:.4g}" for part in ("value", "low", "high"))
        lines.append(f"| {headings[key]} | {value} | {low} to {high} |")
    if "bits" in record:
        value, low, high = (
            f"{record['bits']['total'][part]:.4g}" for part in ("value", "low", "high")
        )
        lines.append(f"| bits per dimension | {value} | {low} to {high} |")
    headings = headings | OF_METRICS
    lines += [f"| {headings[key]} | – | {reason} |" for key, reason in record["missing"].items()]
    lines += [
        f"| FID of {r['system']}, {r['how']} | {r['fid']:g} | published |"
        for r in published(record)
    ]
    if "copies" in record:
        lines += ["", record["copies"]["verdict"]]
    lines += ["", *(f"- {line}" for line in circumstances(record))]
    return "\n".join(lines) + "\n"


def circumstances(record: Record) -> list[str]:
    """What the scores depend on, in a few lines."""
    lines = _of_a_set(record) if record["extractor"] else [_of_a_model(record["generated"])]
    if "bits" in record:
        parts = ", ".join(f"{k} {record['bits'][k]['value']:.3g}" for k in ("L_T", "middle", "L_0"))
        lines.append(f"bits per dimension: a bound, of {record['bits']['data']}; {parts}")
    took = ", ".join(f"{k} {v:.1f}" for k, v in record["seconds"].items() if v is not None)
    lines.append(f"{record['date']}; seconds: {took}")
    if not record["complete"]:
        lines.append("not complete: it was stopped, or goes on")
    return [*lines, *record["marks"]]


def _of_a_model(said: dict[str, Any]) -> str:
    return f"{said['loaded from']} after {said['step']:,} steps, {said['weights']} weights"


def _of_a_set(record: Record) -> list[str]:
    generated, real, extractor = (record[k] for k in ("generated", "reference", "extractor"))
    lines = [f"{generated['count']:,} generated images: {generated['what']}"]
    if "sampling" in generated:
        plan = generated["sampling"]
        options = [f"{k} {v}" for k, v in plan["sampler"].items() if k != "name"]
        lines[0] += (
            f" after {generated['step']:,} steps, {generated['weights']} weights, seeds "
            f"{generated['seeds']}; {plan['steps']} steps of "
            f"{', '.join([plan['sampler']['name'], *options])}; labels: {generated['labels']}"
        )
        if plan["guidance"] != 1:
            lines[0] += f", s = {plan['guidance']:g} in ε = ε_∅ + s·(ε_c − ε_∅)"
    lines.append(counted(real))
    weights = f", of weights {extractor['weights'][:12]}" if extractor["weights"] else ""
    lines.append(
        f"{extractor['width']:,} features of {extractor['name']}{weights}; images of uint8, "
        f"resized: {extractor['resize']}"
    )
    return lines


def counted(real: dict[str, Any]) -> str:
    """How many real images there are, and which. real: what `Reference.said` is."""
    count = (
        f"{real['count']:,} real images" if real["count"] else "real images, as mean and covariance"
    )
    return f"{count}: {real['what']}"


def published(record: Record) -> list[dict[str, Any]]:
    """Results of others by the same protocol."""
    return record.get("published", [])
