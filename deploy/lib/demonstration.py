"""What deploy/quickstart shows: a message survives the death of the node that took it.

A message with an attachment goes in through delivery node 1; node 1 is killed; a second message
goes in through the balancer; and both front-ends serve both, byte for byte as they were sent.
Nothing here knows the inside of the fleet: it is a mail client, with Python's own libraries.
"""

import email.message
import email.policy
import email.utils
import poplib
import smtplib
import ssl

from fleet import DOMAIN, HOST, FleetError

ALICE, BOB = f"alice@{DOMAIN}", f"bob@{DOMAIN}"


def add_accounts(fleet):
    if fleet.password(BOB):
        return
    fleet.say(f"adding {DOMAIN} with alice and bob")
    fleet.admin("domain", "add", DOMAIN)
    for address in ALICE, BOB:
        if not fleet.password(address):
            fleet.add_account(address)


def show(fleet):
    tls = ssl.create_default_context(cafile=fleet.ca)
    first_node = fleet.delivery_nodes[0]

    print("\nWhat mailfleet is for:")
    report = compose("Quarterly report", "The figures are in the attachment.", attachment=True)
    send(first_node.ports["smtp"], tls, report, [ALICE, BOB])
    say(f"sent {len(report):,} octets with an attachment to alice and bob through "
        f"{first_node.name}, over STARTTLS")

    pids = first_node.pids()
    first_node.kill()
    say(f"killed {first_node.name} (SIGKILL to {', '.join(map(str, pids))})")

    question = compose("Re: Quarterly report", "Did the report get through?\r\n.\r\n.. It did.")
    send(fleet.ports.smtp, tls, question, [ALICE])
    say("sent a second message to alice through the balancer, which knew whom to ask")

    for node in fleet.front_ends:
        for address, sent in (ALICE, [report, question]), (BOB, [report]):
            check(node, tls, address, fleet.password(address), sent)
            say(f"read {address} on {node.name} over STLS: {len(sent)} of {len(sent)} "
                "messages are what was sent, byte for byte")

    first_node.up()
    say(f"{first_node.name} is up again; it needed no repair")


def compose(subject, text, attachment=False):
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"] = "Carol <carol@example.org>"
    message["To"] = f"Alice <{ALICE}>"
    message["Subject"] = subject
    message["Date"] = email.utils.formatdate(localtime=True)
    message["Message-ID"] = email.utils.make_msgid(domain="example.org")
    message.set_content(text)
    if attachment:
        message.add_attachment(bytes(range(256)) * 256, maintype="application",
                               subtype="octet-stream", filename="figures.bin")
    return message.as_bytes()


def send(port, tls, message, recipients):
    with smtplib.SMTP(HOST, port, timeout=30) as smtp:
        smtp.starttls(context=tls)
        smtp.sendmail("carol@example.org", recipients, message, ["BODY=8BITMIME"])


def check(node, tls, address, password, sent):
    """Each message sent is in the mailbox once, under nothing but the fleet's own header lines."""
    pop3 = poplib.POP3(HOST, node.ports["pop3"], timeout=30)
    try:
        pop3.stls(context=tls)
        pop3.user(address)
        pop3.pass_(password)
        listed = len(pop3.list()[1])
        mailbox = [b"\r\n".join(pop3.retr(n)[1]) + b"\r\n" for n in range(1, listed + 1)]
    finally:
        pop3.quit()
    for message in sent:
        found = [m.removesuffix(message) for m in mailbox if m.endswith(message)]
        if len(found) != 1 or not is_trace(found[0]):
            raise FleetError(f"{node.name} does not serve what was sent to {address}: found "
                             f"{len(found)} times in a mailbox of {listed}")


def is_trace(header):
    """One Return-Path: and one Received:, and nothing else (RFC 5321, section 4.4)."""
    names = [line.split(b":")[0] for line in header.splitlines() if line[:1] not in (b" ", b"\t")]
    return names == [b"Return-Path", b"Received"]


def how_to_connect(fleet):
    print(f"""
The fleet is up. To connect a mail client:
  incoming   POP3, {HOST}, port {fleet.ports.pop3} with STARTTLS, or port {fleet.ports.pop3s} \
with SSL/TLS
  outgoing   SMTP, {HOST}, port {fleet.ports.smtp} with STARTTLS, no password; it takes mail for \
{DOMAIN} alone""")
    for address in ALICE, BOB:
        print(f"  account    {address}, password {fleet.password(address)}")
    print(f"""\
  trust      {fleet.ca}, the authority that signed the servers' certificate
The balancer answers on these ports. `deploy/quickstart status --state {fleet.state}` shows every
part, `deploy/quickstart down --state {fleet.state}` stops them.""")


def say(line):
    print(f"  {line}", flush=True)
