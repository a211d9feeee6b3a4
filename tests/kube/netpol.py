"""What NetworkPolicies say: which pod may connect to which port of which pod. No CIDR blocks, no port ranges."""

from dataclasses import dataclass, field


@dataclass
class Peer:
    """A pod, or with no namespace something outside of the cluster."""

    name: str
    namespace: str | None = None
    labels: dict = field(default_factory=dict)
    namespace_labels: dict = field(default_factory=dict)
    ports: dict = field(default_factory=dict)  # by name


def selects(selector, labels):
    """A LabelSelector on labels; an empty one selects everything."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        key, operator, values = rule["key"], rule["operator"], rule.get("values", [])
        met = {
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
        }[operator]
        if not met:
            return False
    return True


def peer_matches(policy, who, peer):
    unknown = set(who) - {"podSelector", "namespaceSelector"}
    if unknown:
        raise NotImplementedError(f"peers by {unknown}")
    if peer.namespace is None:
        return False
    if "namespaceSelector" not in who:
        if peer.namespace != policy["metadata"]["namespace"]:
            return False
    elif not selects(who["namespaceSelector"], peer.namespace_labels):
        return False
    return selects(who.get("podSelector", {}), peer.labels)


def port_matches(rule, target, port):
    if not rule.get("ports"):
        return True
    return any(
        one.get("protocol", "TCP") == "TCP" and target.ports.get(one["port"], one["port"]) == port
        for one in rule["ports"]
    )


def direction_allows(policies, peer, other, target, port, direction):
    """Whether what is asked of `peer` in this direction permits the connection with `other` to a port of `target`."""
    side = "from" if direction == "Ingress" else "to"
    mine = [
        p
        for p in policies
        if p["metadata"]["namespace"] == peer.namespace
        and direction in p["spec"].get("policyTypes", ["Ingress"])
        and selects(p["spec"]["podSelector"], peer.labels)
    ]
    if not mine:
        return True
    for policy in mine:
        for rule in policy["spec"].get(direction.lower()) or []:
            peers = rule.get(side)
            if (not peers or any(peer_matches(policy, who, other) for who in peers)) and port_matches(
                rule, target, port
            ):
                return True
    return False


def allowed(policies, source, target, port):
    """Both ends must permit it."""
    return direction_allows(policies, source, target, target, port, "Egress") and (
        target.namespace is None or direction_allows(policies, target, source, target, port, "Ingress")
    )
