package worker

import (
	"strings"
	"testing"
	"time"

	"bluejay/sms"
)

// TestPanic: a panic in the transport ends that job alone, as a dead letter, and is logged by type
// only. Its sender hears "perhaps sent": the SMSC may have it. [F-9] [F-16]
func TestPanic(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(n int, m sms.Message) sms.Result {
			if strings.HasPrefix(m.Text, "bad") {
				panic(recipient + secret)
			}
			return accepted(m, "id")
		}
		p := w.start(func(c *Config, _ *ports) { c.Window = 1 })
		bad := w.send(w.job("bad " + secret))
		good := w.send(w.job(secret))
		w.wait(time.Minute)
		if w.dead[bad] != deadPanic || w.told(bad) != "unknown" || len(w.retries[bad]) != 0 {
			t.Errorf("dead-lettered as %q, told %q, %d retries", w.dead[bad], w.told(bad), len(w.retries[bad]))
		}
		if w.told(good) != "submitted" || !w.acked[good] || len(w.submits) != 2 {
			t.Errorf("the other job: told %q after %d submits", w.told(good), len(w.submits))
		}
		w.look(func() {
			if said := w.logs.String(); strings.Count(said, "panic in a job") != 1 || !strings.Contains(said, "type=string") {
				t.Errorf("log:\n%s", said)
			}
		})
		p.stop()
		w.leaks()
	})
}
