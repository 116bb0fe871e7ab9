"""The balancer that has the service's address is lost, and the other one takes the address."""

from scenario import BROKEN, Scenario


class BalancerLost(Scenario):
    """HAProxy is killed (SIGKILL), then the host of the other one loses its power; the address moves."""

    name = "lb-kill"
    sees = "POP3 sessions through it break off; new ones are refused until the address has moved"
    # Whoever spoke through the one without power is told nothing; its node has the mailbox for a while.
    answers = dict.fromkeys(("readers", "quiet readers"), BROKEN | {"no answer in time", "IN-USE"})

    def run(self, lab):
        # The lists are not asked of anything else than what is still there: polls stop only for this.
        first = lab.balancer()
        haproxy = lab[first.name.replace("keepalived", "haproxy")]
        self.lose(lab, first, haproxy.kill)
        haproxy.up()
        self.wait(4)  # until its keepalived has seen it
        second = lab.balancer()
        self.expect(second is not first, "the address went back to the balancer that came back")
        self.lose(lab, second, lambda: lab.power_off(second.place.name))
        lab.power_on(second.place.name)

    def lose(self, lab, holder, fault):
        lost = self.now()
        fault()
        self.until(20, lambda: None if lab.balancer() not in (None, holder)
                   else "the address has not moved")
        self.measured[f"until {holder.name} had lost the address"] = self.now() - lost
        self.well_again()
        self.since(lost, "poll", within=15)
        self.since(lost, "delivery", within=10)  # MX hosts need no balancer
