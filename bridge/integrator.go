package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/wire"
)

// What is in an integrator's own account.
const (
	// StreamIntegrator keeps events until the integrator has read them, seven days at most.
	StreamIntegrator = "BLUEJAY_EVENTS"

	integratorAge   = 7 * 24 * time.Hour
	integratorBytes = 200 << 20 // below what the account may have
	integratorInbox = "_INBOX"  // what every client library uses
	publisherInbox  = "_INBOX_bluejay"

	subjectSubmit  = "bluejay.sms.submit"
	subjectReceipt = "bluejay.sms.receipt"
)

// IntegratorPermissions returns what an integrator may do in its account: read the events live or from
// the stream, with consumers of its own, and with sms serve a route for SMS. It may neither publish
// events nor touch the stream.
func IntegratorPermissions(sms bool) (publish, subscribe []string) {
	publish = []string{
		api + "INFO", api + "STREAM.NAMES", api + "STREAM.LIST", api + "STREAM.INFO." + StreamIntegrator,
		api + "CONSUMER.CREATE." + StreamIntegrator, api + "CONSUMER.CREATE." + StreamIntegrator + ".>",
		api + "CONSUMER.DURABLE.CREATE." + StreamIntegrator + ".*", api + "CONSUMER.NAMES." + StreamIntegrator,
		api + "CONSUMER.LIST." + StreamIntegrator, api + "CONSUMER.INFO." + StreamIntegrator + ".*",
		api + "CONSUMER.DELETE." + StreamIntegrator + ".*", api + "CONSUMER.MSG.NEXT." + StreamIntegrator + ".*",
		"$JS.ACK." + StreamIntegrator + ".>", "$JS.ACK.*.*." + StreamIntegrator + ".>", "$JS.FC.>",
	}
	subscribe = []string{integratorInbox + ".>", wire.IntegratorSubjects()}
	if sms {
		publish = append(publish, subjectReceipt, publisherInbox+".>")
		subscribe = append(subscribe, subjectSubmit)
	}
	return publish, subscribe
}

// PublisherPermissions returns what the broker may do in an integrator's account.
func PublisherPermissions() (publish, subscribe []string) {
	return []string{
		wire.IntegratorSubjects(), api + "STREAM.INFO." + StreamIntegrator, api + "STREAM.CREATE." + StreamIntegrator,
		api + "STREAM.UPDATE." + StreamIntegrator, api + "STREAM.PURGE." + StreamIntegrator,
		api + "STREAM.MSG.GET." + StreamIntegrator,
	}, []string{publisherInbox + ".>"}
}

// RemotePermissions returns what the SMS worker may do in the account of an integrator that is a route.
func RemotePermissions() (publish, subscribe []string) {
	return []string{subjectSubmit, integratorInbox + ".>"}, []string{publisherInbox + ".>", subjectReceipt}
}

// Integrator is the broker's connection to one integrator's account.
type Integrator struct {
	nc *nats.Conn
	js jetstream.JetStream
	b  *Bridge // for bounds and texts of errors
}

// IntegratorConfig says where an integrator's account is.
type IntegratorConfig struct {
	URL       string
	InProcess InProcess   // instead of URL
	Creds     string      // a credentials file of a user in it
	Name      string      // of the integrator; names the connection
	TLS       *tls.Config // of a [Reader]; the others use their bridge's
}

// OpenIntegrator connects to an integrator's account and makes its stream. It uses b's logger, bounds
// and TLS settings, and lives until it is closed.
func (b *Bridge) OpenIntegrator(ctx context.Context, c IntegratorConfig) (*Integrator, error) {
	const op = "open an integrator's account"
	nc, err := b.account(ctx, c)
	if err != nil {
		return nil, failure(op, err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(b.timeout))
	if err != nil {
		nc.Close()
		return nil, failure(op, err)
	}
	i := &Integrator{nc: nc, js: js, b: b}
	if err := i.ensure(ctx); err != nil {
		nc.Close()
		return nil, failure(op, err)
	}
	return i, nil
}

// account connects to an integrator's account. Nothing is buffered while it is away.
func (b *Bridge) account(ctx context.Context, c IntegratorConfig) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("integrator " + c.Name), nats.UserCredentials(c.Creds), nats.CustomInboxPrefix(publisherInbox),
		nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectBufSize(-1), nats.Timeout(b.within(ctx)),
	}
	if c.InProcess != nil {
		opts = append(opts, nats.InProcessServer(c.InProcess))
	}
	if b.tls != nil {
		opts = append(opts, nats.Secure(b.tls))
	}
	return nats.Connect(c.URL, opts...)
}

func (i *Integrator) ensure(ctx context.Context) error {
	ctx, cancel := i.b.bound(ctx)
	defer cancel()
	cfg := jetstream.StreamConfig{
		Name: StreamIntegrator, Subjects: []string{wire.IntegratorSubjects()}, Storage: jetstream.FileStorage,
		MaxAge: integratorAge, MaxBytes: integratorBytes, MaxMsgSize: wire.MaxEvent + 1<<10, Duplicates: dedupWindow, Discard: jetstream.DiscardOld,
	}
	_, err := i.js.UpdateStream(ctx, cfg)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = i.js.CreateStream(ctx, cfg)
	}
	return err
}

// Publish stores an event; nil means that the integrator will find it. The same id again within five
// minutes is stored once.
func (i *Integrator) Publish(ctx context.Context, subject, id string, event []byte) error {
	ctx, cancel := i.b.bound(ctx)
	defer cancel()
	m := nats.NewMsg(subject)
	m.Data = event
	m.Header.Set("Content-Type", wire.EventContentType)
	_, err := i.js.PublishMsg(ctx, m, jetstream.WithMsgID(id))
	return failure("publish an event", err)
}

// Purge removes what is stored at a subject, which may have wildcards, and reports whether there was
// anything.
func (i *Integrator) Purge(ctx context.Context, subject string) (had bool, err error) {
	const op = "purge an integrator's events"
	ctx, cancel := i.b.bound(ctx)
	defer cancel()
	s, err := i.js.Stream(ctx, StreamIntegrator)
	if err != nil {
		return false, failure(op, err)
	}
	_, err = s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, failure(op, err)
	}
	return true, failure(op, s.Purge(ctx, jetstream.WithPurgeSubject(subject)))
}

// Close ends the connection.
func (i *Integrator) Close() { i.nc.Close() }
