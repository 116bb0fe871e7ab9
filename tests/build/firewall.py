#!/usr/bin/python3
"""
firewall: the example configuration and the packet filter of deploy/ fit each other.

  firewall.py ROOT

What a node listens on for balancers (PROXY headers, health, agent) is what the filter lets balancers reach in
the chain of its role, no more and no less; the world reaches what senders need.
"""

import configparser
import re
import sys
from pathlib import Path

# Chain -> settings of its ports.
FOR_BALANCERS = {
    "deliver": ("smtp.proxy_listen", "deliver.health", "deliver.agent"),
    "frontend": ("pop3.proxy_listen", "pop3.proxy_tls_listen", "frontend.health", "frontend.agent"),
}
# Where senders come who find the nodes by their MX records; of POP3 it is the balancer's.
FOR_ALL = {"deliver": {25}, "frontend": set()}


def listens(example, setting):
    section, key = setting.split(".")
    return {int(address.rpartition(":")[2]) for address in example[section][key].split(",")}


def opens(filter_text, chain, who):
    """The ports of a chain's rules that begin so."""
    body = re.search(rf"^    chain {chain} \{{\n(.*?)^    \}}", filter_text, re.MULTILINE | re.DOTALL)[1]
    ports = re.findall(rf"^ *{who}tcp dport \{{? ?([0-9, ]+?) ?\}}? accept$", body, re.MULTILINE)
    return {int(port) for rule in ports for port in rule.split(",")}


def main(root):
    example = configparser.ConfigParser(interpolation=None)
    example.read_string((Path(root) / "deploy/config/mailfleet.conf").read_text(encoding="utf-8"))
    rules = (Path(root) / "deploy/firewall/nftables.conf").read_text(encoding="utf-8")
    wrong = []
    for chain, settings in FOR_BALANCERS.items():
        wanted = set().union(*(listens(example, setting) for setting in settings))
        open_ = opens(rules, chain, "ip saddr @balancers ")
        wrong += [f"{chain}: balancers do not reach {port}" for port in sorted(wanted - open_)]
        wrong += [f"{chain}: nothing listens on {port}" for port in sorted(open_ - wanted)]
        if opens(rules, chain, "") != FOR_ALL[chain]:
            wrong.append(f"{chain}: the world reaches {sorted(opens(rules, chain, ''))}")
    print("\n".join(wrong) or "they fit")
    return 1 if wrong else 0


sys.exit(main(sys.argv[1]))
