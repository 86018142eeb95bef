package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/sms/smsc"
	"bluejay/wire"
)

// Times of the demo's node. Grey is shortened so that nobody waits: the service's own is 20 to 40 s. The deadline is
// the service's, for no text of the demo waits until it passes, and on a busy machine one may take seconds.
const (
	demoGreyMin  = "200ms"
	demoGreyMax  = "400ms"
	demoDeadline = "8s"
	demoTimeout  = 60 * time.Second
	demoTexts    = 30  // over IP, for the median
	demoSMS      = 10  // over the gateway, for the median
	demoRepeats  = 110 // publishes to the inbox repeated after the revocation
	demoHellos   = 2   // and to the hello lane, within what one sender may write to one recipient an hour
)

// The demo's people, with numbers from the range that Ofcom keeps for fiction.
var (
	demoNumbers = map[string]string{"alice": "+447700900123", "bob": "+447700900456"}
	demoIP      = "Shall we walk to the sea today?"
	demoViaSMS  = "Bring the red umbrella, please"
)

func demoCmd() *cobra.Command {
	var asJSON bool
	var keep string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "The whole service on this machine: two phones, a node, a phone network; about ten seconds",
		Long: `Starts a node (broker, registrar and SMS worker in processes of their own), an SMSC that nobody
here wrote, and two phones that talk to the node over TCP on loopback. Then it does the product's
whole job once and checks every claim, each zero with a positive control beside it. It exits 0 only
if all of it held. The grey delay is shortened; everything else is as in service.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDemo(cmd.Context(), newTeller(cmd.OutOrStdout(), asJSON), keep)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.Flags().StringVar(&keep, "keep", "", "leave everything the demo wrote in this new directory")
	return cmd
}

// demo is the stage. Whoever is nil has not come on yet.
type demo struct {
	tell *teller
	dir  string
	smsc *smsc.Server
	node nodeChild
	addr string

	people map[string]*person
}

// person is a phone, its relay and what it has been told.
type person struct {
	name    string
	number  wire.Number
	dir     string
	relay   *relay
	phone   *handset.Handset
	contact handset.ContactID // of the other one
	seen    *inboxWatch
}

// runDemo plays every scene in order and reports the first claim that does not hold.
func runDemo(ctx context.Context, tell *teller, keep string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	d := &demo{tell: tell, people: map[string]*person{}}
	if d.dir, err = demoDir(keep); err != nil {
		return err
	}
	if keep == "" {
		defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	}
	defer d.close()
	scenes := []func(context.Context) error{
		d.open, d.beforeConsent, d.enrol, d.blue, d.overIP, d.grey, d.overSMS, d.revoke, d.scan, d.summary,
	}
	for _, scene := range scenes {
		if err := scene(ctx); err != nil {
			tell.event("failed", "reason", err.Error())
			return err
		}
	}
	return nil
}

func demoDir(keep string) (string, error) {
	if keep == "" {
		return os.MkdirTemp("", "bluejay-demo-")
	}
	return keep, os.Mkdir(keep, 0o700)
}

// open starts the SMSC, the node and the phones' relays, and opens the phones: no connection yet.
func (d *demo) open(ctx context.Context) (err error) {
	if d.smsc, err = smsc.Start("127.0.0.1:0"); err != nil {
		return err
	}
	if err := d.startNode(ctx); err != nil {
		return err
	}
	d.tell.event("started", "addr", d.addr, "processes", 3, "grey_min", demoGreyMin, "grey_max", demoGreyMax, "deadline", demoDeadline)
	pins, err := handset.LoadPins(filepath.Join(d.dir, "node", filePins))
	if err != nil {
		return err
	}
	for _, name := range []string{"alice", "bob"} {
		if d.people[name], err = d.newPerson(name, pins); err != nil {
			return err
		}
	}
	return nil
}

// startNode runs `bluejay serve` as anybody would, its log in the node's own directory.
func (d *demo) startNode(ctx context.Context) error {
	dir := filepath.Join(d.dir, "node")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	args := []string{"--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--sms", "smpp://" + smsc.SystemID + "@" + d.smsc.Addr(),
		"--log", "debug", "--grey-min", demoGreyMin, "--grey-max", demoGreyMax, "--deadline", demoDeadline}
	var err error
	if d.node, err = startNodeChild(dir, args, "BLUEJAY_SMS_PASSWORD="+smsc.Password); err != nil {
		return err
	}
	return d.awaitNode(ctx, d.node.out)
}

func (d *demo) awaitNode(ctx context.Context, out io.Reader) error {
	ready := make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var e struct{ Event, Addr string }
			if json.Unmarshal(lines.Bytes(), &e) == nil && e.Event == "ready" {
				d.addr = e.Addr
				ready <- nil
			}
		}
		ready <- errNodeEnded
	}()
	select {
	case err := <-ready:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *demo) newPerson(name string, pins handset.Pins) (*person, error) {
	number, err := wire.ParseNumber(demoNumbers[name])
	if err != nil {
		return nil, err
	}
	p := &person{name: name, number: number, dir: filepath.Join(d.dir, name)}
	if p.relay, err = newRelay(); err != nil {
		return nil, err
	}
	p.relay.to(d.addr)
	p.phone, err = handset.Open(handset.Config{
		Dir: p.dir, Pins: pins, Addr: p.relay.addr(), Policy: handset.Policy{Mode: fallback.ModeGateway},
		HelloTimeout: 2 * time.Second, MaxBackoff: 500 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	p.seen = watch(p.phone.Events())
	return p, nil
}

func (d *demo) close() {
	for _, p := range d.people {
		if p != nil && p.phone != nil {
			_ = p.phone.Close()
		}
		if p != nil && p.relay != nil {
			p.relay.close()
		}
	}
	_ = d.node.stop()
	if d.smsc != nil {
		d.smsc.Close()
	}
}

// beforeConsent uses a phone whose user has agreed to nothing: reads the notice, adds a contact,
// tries to connect. Not one dial reaches the relay.
func (d *demo) beforeConsent(ctx context.Context) error {
	alice, bob := d.people["alice"], d.people["bob"]
	_ = alice.phone.Notice("en")
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	c, _ := alice.phone.AddContact(short, "Bob", bob.number) // cannot look up: not enrolled
	alice.contact = c
	if alice.phone.Connect(short) == nil {
		return errors.New("a phone connected before its user agreed to anything")
	}
	if alice.relay.dials.Load() != 0 || alice.relay.bytes.Load() != 0 {
		return fmt.Errorf("%d dials and %d bytes before consent", alice.relay.dials.Load(), alice.relay.bytes.Load())
	}
	d.tell.event("before_consent", "bytes", alice.relay.bytes.Load(), "dials", alice.relay.dials.Load())
	return nil
}

var passwordPattern = regexp.MustCompile(`\b[0-9]{6}\b`)

// enrol shows the notice, proves the number by a one-time password that really travels as an SMS,
// and opts in.
func (d *demo) enrol(ctx context.Context) error {
	for _, name := range []string{"alice", "bob"} {
		p := d.people[name]
		start := time.Now()
		if err := p.phone.Enrol(ctx, p.number, p.phone.Notice("en")); err != nil {
			return fmt.Errorf("%s: enrol: %w", name, err)
		}
		m, err := d.smsc.Wait(ctx, func(m smsc.Message) bool { return m.To == demoNumbers[name] && passwordPattern.MatchString(m.Text) })
		if err != nil {
			return fmt.Errorf("%s: no one-time password: %w", name, err)
		}
		if err := p.phone.Confirm(ctx, passwordPattern.FindString(m.Text)); err != nil {
			return fmt.Errorf("%s: confirm: %w", name, err)
		}
		if err := p.phone.OptIn(ctx, wire.ScopeMessaging|wire.ScopePresence|wire.ScopeGateway, wire.Listed); err != nil {
			return fmt.Errorf("%s: opt in: %w", name, err)
		}
		if err := p.phone.Connect(ctx); err != nil {
			return fmt.Errorf("%s: connect: %w", name, err)
		}
		if p.relay.bytes.Load() == 0 {
			return errors.New("the relay counts nothing even now: its zero before consent proved nothing")
		}
		d.tell.event("enrolled", "phone", name, "ms", ms(time.Since(start)), "bytes_after_consent", p.relay.bytes.Load())
	}
	return nil
}

// blue adds each to the other's contacts and opens the conversation: alice sees bob turn blue.
func (d *demo) blue(ctx context.Context) (err error) {
	alice, bob := d.people["alice"], d.people["bob"]
	if bob.contact, err = bob.phone.AddContact(ctx, "Alice", alice.number); err != nil {
		return fmt.Errorf("bob adds alice: %w", err)
	}
	start := time.Now()
	if alice.contact, err = alice.phone.AddContact(ctx, "Bob", bob.number); err != nil {
		return fmt.Errorf("alice adds bob: %w", err)
	}
	if err := alice.phone.OpenConversation(alice.contact); err != nil {
		return err
	}
	if err := alice.seen.await(ctx, colour(alice.contact, handset.Blue)); err != nil {
		return fmt.Errorf("bob never turned blue: %w", err)
	}
	d.tell.event("presence", "phone", "alice", "contact", "bob", "colour", "blue", "ms", ms(time.Since(start)))
	return nil
}

// overIP sends texts that bob's phone shows and acknowledges.
func (d *demo) overIP(ctx context.Context) error {
	alice, bob := d.people["alice"], d.people["bob"]
	var times []time.Duration
	for i := range demoTexts {
		text := demoIP
		if i > 0 {
			text = fmt.Sprintf("%s (%d)", demoIP, i)
		}
		took, err := alice.send(ctx, text, handset.Delivered)
		if err != nil {
			return err
		}
		if !shows(bob.phone.Texts(bob.contact), text) {
			return errors.New("delivered, but bob's phone does not show it")
		}
		times = append(times, took)
	}
	if alice.relay.deliveries.Load()+bob.relay.deliveries.Load() == 0 {
		return errors.New("the relay saw no delivery")
	}
	d.tell.event("delivered", "path", "ip", "ms", ms(median(times)), "texts", len(times), "text", demoIP)
	return nil
}

// send writes one text to the other person and waits until it has the state.
func (p *person) send(ctx context.Context, text string, want handset.State) (time.Duration, error) {
	start := time.Now()
	id, err := p.phone.Send(ctx, p.contact, text)
	if err != nil {
		return 0, err
	}
	err = p.seen.await(ctx, func(e handset.Event) bool {
		return e.Kind == handset.TextChanged && e.Text == id && e.State == want
	})
	if err != nil {
		return 0, fmt.Errorf("a text did not become %q: %w", want, err)
	}
	return time.Since(start), nil
}

// grey lets bob leave: after the delay his icon turns grey.
func (d *demo) grey(ctx context.Context) error {
	alice, bob := d.people["alice"], d.people["bob"]
	start := time.Now()
	if err := bob.phone.Disconnect(ctx); err != nil {
		return err
	}
	if err := alice.seen.await(ctx, colour(alice.contact, handset.Grey)); err != nil {
		return fmt.Errorf("bob never turned grey: %w", err)
	}
	d.tell.event("presence", "phone", "alice", "contact", "bob", "colour", "grey", "ms", ms(time.Since(start)))
	return nil
}

// overSMS writes to grey bob: the SMSC's own record shows the text.
func (d *demo) overSMS(ctx context.Context) error {
	alice := d.people["alice"]
	var times []time.Duration
	for i := range demoSMS {
		text := demoViaSMS
		if i > 0 {
			text = fmt.Sprintf("%s (%d)", demoViaSMS, i)
		}
		start := time.Now()
		id, err := alice.phone.Send(ctx, alice.contact, text)
		if err != nil {
			return err
		}
		m, err := d.smsc.Wait(ctx, func(m smsc.Message) bool { return isFallback(m, text) })
		if err != nil {
			return fmt.Errorf("the SMSC never got the text: %w", err)
		}
		times = append(times, m.At.Sub(start))
		err = alice.seen.await(ctx, func(e handset.Event) bool {
			return e.Kind == handset.TextChanged && e.Text == id && (e.State == handset.SMSSent || e.State == handset.SMSDelivered)
		})
		if err != nil {
			return fmt.Errorf("alice is not told that it went as SMS: %w", err)
		}
	}
	d.tell.event("delivered", "path", "sms", "ms", ms(median(times)), "texts", len(times), "text", demoViaSMS)
	return nil
}

// isFallback reports whether a message is alice's text to bob as the gateway sends it.
func isFallback(m smsc.Message, text string) bool {
	return m.To == demoNumbers["bob"] && m.Text == fallback.WithSender(demoNumbers["alice"], text)
}

// revoke lets bob come back, opt out, and checks the silence: alice's own publishes to him, repeated
// on her connection, bring him nothing, although the same repetition of each did a moment before.
// He is connected all the while, as a device without consent may be.
func (d *demo) revoke(ctx context.Context) error {
	alice, bob := d.people["alice"], d.people["bob"]
	if err := bob.phone.Connect(ctx); err != nil {
		return err
	}
	if err := alice.seen.await(ctx, colour(alice.contact, handset.Blue)); err != nil {
		return fmt.Errorf("bob never came back: %w", err)
	}
	control, err := d.reaches(ctx, bob, map[byte]int{'i': 1, 'h': 1})
	if err != nil {
		return err
	}
	if control != 2 {
		return errors.New("a repeated publish brings nothing even before the revocation: silence after it would prove nothing")
	}
	start := time.Now()
	if err := bob.phone.OptOut(ctx); err != nil {
		return fmt.Errorf("opt out: %w", err)
	}
	silence := time.Since(start)
	d.tell.event("revoked", "phone", "bob", "silence_ms", ms(silence))
	if err := bob.phone.Connect(ctx); err != nil || !bob.phone.Status().Connected {
		return fmt.Errorf("bob cannot connect without consent, so nothing could reach him anyway: %w", err)
	}
	deliveries, err := d.reaches(ctx, bob, map[byte]int{'i': demoRepeats, 'h': demoHellos})
	if err != nil {
		return err
	}
	d.tell.event("after_revocation", "deliveries", deliveries, "attempts", demoRepeats+demoHellos, "control_before", control, "connected", true)
	if deliveries != 0 {
		return fmt.Errorf("%d deliveries after the revocation was acknowledged", deliveries)
	}
	return nil
}

// reaches repeats alice's publishes of each kind, one after the other was answered, and returns how
// many reached p: what the node wrote to p before its answer to a ping is counted.
func (d *demo) reaches(ctx context.Context, p *person, attempts map[byte]int) (deliveries int64, err error) {
	before := p.relay.deliveries.Load()
	for kind, n := range attempts {
		for range n {
			if err := d.repeat(ctx, kind, 1); err != nil {
				return 0, err
			}
		}
	}
	if err := p.relay.ping(ctx); err != nil {
		return 0, fmt.Errorf("%s's connection: %w", p.name, err)
	}
	return p.relay.deliveries.Load() - before, nil
}

// repeat publishes again what alice published, and waits until each was answered.
func (d *demo) repeat(ctx context.Context, kind byte, n int) error {
	alice := d.people["alice"]
	want := alice.relay.answers.Load() + int64(n)
	if alice.relay.repeat(kind, n) != n {
		return fmt.Errorf("alice's publish to %c/ could not be repeated", kind)
	}
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for alice.relay.answers.Load() < want {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("repeated publishes to %c/ were not answered: %w", kind, ctx.Err())
		}
	}
	return nil
}

// scan stops the node and searches everything it wrote for the demo's numbers and texts, after it
// has found planted ones in every encoding.
func (d *demo) scan(ctx context.Context) error {
	for _, p := range d.people {
		_ = p.phone.Disconnect(ctx)
	}
	if err := d.node.stop(); err != nil {
		return fmt.Errorf("the node did not end well: %w: see its log (run the demo with --keep DIR)", err)
	}
	texts := []string{demoIP, demoViaSMS}
	control, err := plant(filepath.Join(d.dir, "control"), demoNumbers["alice"], demoIP)
	if err != nil {
		return err
	}
	numbers := []string{demoNumbers["alice"], demoNumbers["bob"]}
	f, err := scan(filepath.Join(d.dir, "node"), needles(numbers, texts))
	if err != nil {
		return err
	}
	d.tell.event("scan", "numbers", f.numbers, "texts", f.texts, "files", f.files, "bytes", f.size, "control_found", control)
	if f.numbers+f.texts != 0 {
		return fmt.Errorf("the node wrote down what it must not know: %v", f.where)
	}
	return nil
}

// summary accounts for every text from the phones' own directories and the SMSC's record.
func (d *demo) summary(context.Context) error {
	mine, err := handset.ReadState(d.people["alice"].dir)
	if err != nil {
		return err
	}
	his, err := handset.ReadState(d.people["bob"].dir)
	if err != nil {
		return err
	}
	received, network := his.Received(), d.smsc.Messages()
	var accepted, ip, viaSMS, returned, lost, doubled int
	for _, t := range mine.Outbox() {
		accepted++
		if arrivals(t.Body, received, network) > 1 {
			doubled++
		}
		switch {
		case t.State == handset.Delivered && shows(received, t.Body):
			ip++
		case slices.ContainsFunc(network, func(m smsc.Message) bool { return isFallback(m, t.Body) }):
			viaSMS++
		case t.State == handset.Failed:
			returned++
		default:
			lost++
		}
	}
	d.tell.event("summary", "accepted", accepted, "ip", ip, "sms", viaSMS, "returned", returned, "unaccounted", lost, "doubled", doubled)
	if lost != 0 || ip != demoTexts || viaSMS != demoSMS {
		return fmt.Errorf("%d texts accepted, %d over IP, %d as SMS, %d returned: %d unaccounted for", accepted, ip, viaSMS, returned, lost)
	}
	if doubled != 0 {
		return fmt.Errorf("%d texts arrived more than once", doubled)
	}
	return nil
}

// arrivals counts how often bob got one of the demo's texts, whose bodies all differ: on his phone and
// in the SMSC's record together, for once on each is twice for bob.
func arrivals(body string, received []handset.Text, network []smsc.Message) (n int) {
	for _, t := range received {
		if !t.Out && t.Body == body {
			n++
		}
	}
	for _, m := range network {
		if isFallback(m, body) {
			n++
		}
	}
	return n
}

func shows(texts []handset.Text, body string) bool {
	return slices.ContainsFunc(texts, func(t handset.Text) bool { return !t.Out && t.Body == body })
}

func colour(c handset.ContactID, want handset.Colour) func(handset.Event) bool {
	return func(e handset.Event) bool {
		return e.Kind == handset.PresenceChanged && e.Contact == c && e.Colour == want
	}
}

func ms(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// median is the middle one, of an even number the greater of two. There is at least one.
func median[T cmp.Ordered](v []T) T {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
