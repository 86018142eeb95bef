package handset

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

// seenPacket is what the scanner reports.
type seenPacket struct {
	kind byte
	id   uint16
}

func scanAll(b []byte) []seenPacket {
	var s scanner
	var out []seenPacket
	for _, x := range b {
		if kind, id := s.next(x); kind != 0 {
			out = append(out, seenPacket{kind, id})
		}
	}
	return out
}

func somePacket(r *rand.Rand) (packets.ControlPacket, seenPacket) {
	switch r.IntN(4) {
	case 0:
		p := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		p.MessageID = uint16(r.Uint32())
		return p, seenPacket{packets.Puback, p.MessageID}
	case 1:
		return packets.NewControlPacket(packets.Pingresp), seenPacket{kind: packets.Pingresp}
	}
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos, p.MessageID = "r", make([]byte, r.IntN(20_000)), byte(r.IntN(2)), 7
	return p, seenPacket{packets.Publish, 0x0001}
}

// The scanner finds the boundaries that paho's own decoder finds.
func TestScannerAgreesWithPaho(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var stream bytes.Buffer
	var want []seenPacket
	for range 500 {
		p, s := somePacket(r)
		if err := p.Write(&stream); err != nil {
			t.Fatal(err)
		}
		want = append(want, s)
	}
	got := scanAll(stream.Bytes())
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(seenPacket{})); diff != "" {
		t.Error(diff)
	}
}

func FuzzScanner(f *testing.F) {
	f.Add([]byte{0x40, 2, 0, 7, 0xd0, 0})
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range scanAll(b) {
			if p.kind > 15 {
				t.Error("a packet kind that MQTT does not have")
			}
		}
	})
}

type fakeMessage struct {
	mqtt.Message
	n int
}

// A PUBACK is handed out after the messages that stood before it, however late those come. [C-1]
func TestPubackWaitsForItsPlace(t *testing.T) {
	b := newMailbox(make(chan struct{}, 1))
	b.puback(puback{id: 1, after: 0})
	b.puback(puback{id: 2, after: 2})
	var got []int
	take := func() {
		for l, ok := b.next(); ok; l, ok = b.next() {
			if l.message == nil {
				got = append(got, -int(l.puback))
			} else {
				got = append(got, l.message.(fakeMessage).n)
			}
		}
	}
	take()
	for n := range 3 {
		b.message(fakeMessage{n: n}, nil)
		take()
	}
	if diff := cmp.Diff([]int{-1, 0, 1, -2, 2}, got); diff != "" {
		t.Error(diff)
	}
}

// A full mailbox stops the reading, and goes on when there is room or the connection has ended.
func TestMailboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, lost := newMailbox(make(chan struct{}, 1)), make(chan struct{})
		put := 0
		go func() {
			for range 3 * maxMail {
				b.message(fakeMessage{}, lost)
				put++
			}
		}()
		synctest.Wait()
		if put != maxMail {
			t.Errorf("%d messages queued, want %d", put, maxMail)
		}
		for range 10 {
			b.next()
			synctest.Wait()
		}
		if put != maxMail+10 {
			t.Errorf("%d messages after 10 were taken, want %d", put, maxMail+10)
		}
		close(lost)
		synctest.Wait()
	})
}

func TestTapTellsEnd(t *testing.T) {
	ours, theirs := net.Pipe()
	tp := &tap{Conn: ours, mail: newMailbox(make(chan struct{}, 1))}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tp.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read after the peer closed: %v, want EOF", err)
	}
}

func selfSigned(t *testing.T, key ed25519.PrivateKey) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fake"}, DNSNames: []string{"fake"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// With TLS the password is bound to the very connection that carries it. [P-15]
func TestConnectIsBoundToTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		cert, pool := selfSigned(t, newKey())
		b.tls = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
		p := newPhone(t, b, aliceNumber, func(c *Config) { c.TLS = &tls.Config{RootCAs: pool, ServerName: "fake"} })
		p.join(everything)
		if !p.Status().Connected {
			t.Error("not connected over TLS")
		}
		if err := p.RotateTag(t.Context()); err != nil { // reconnects, with the short form of the proof
			t.Error(err)
		}
	})
}

func TestRefusedConnect(t *testing.T) {
	tests := []struct {
		name string
		code byte
		want error
	}{
		{"not authorized", 5, ErrRefused},
		{"bad user name or password", 4, ErrRefused},
		{"unavailable", 3, ErrUnavailable},
		{"too old [A-7]", 1, ErrTooOld},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newFakeBroker(t)
				b.refuse = tt.code
				p := newPhone(t, b, aliceNumber, nil)
				if err := p.Enrol(t.Context(), p.number, p.Notice("en")); !errors.Is(err, tt.want) {
					t.Errorf("enrol: %v, want %v", err, tt.want)
				}
			})
		})
	}
}

// A refusal ends the trying, an unavailable broker does not.
func TestConnectTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		p := newPhone(t, b, aliceNumber, nil)
		p.join(everything)
		b.setRefuse(3)
		b.cut(p.Status().ID)
		settle(time.Minute)
		b.setRefuse(0)
		settle(3 * time.Minute)
		if !p.Status().Connected {
			t.Error("not connected after the broker came back")
		}
		b.setRefuse(5)
		b.cut(p.Status().ID)
		settle(time.Hour)
		if p.Status().Connected || p.events(Refused) != 1 {
			t.Errorf("connected %v, told of %d refusals; want one", p.Status().Connected, p.events(Refused))
		}
		if err := p.Connect(t.Context()); !errors.Is(err, ErrRefused) {
			t.Errorf("connect: %v, want ErrRefused", err)
		}
	})
}

// Without consent an enrolled device is connected, and only that. [P-17]
func TestConnectNeedsEnrolment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		p := newPhone(t, b, aliceNumber, nil)
		for _, err := range []error{p.Connect(t.Context()), p.Confirm(t.Context(), fakeOTP), p.OptIn(t.Context(), everything, wire.Listed)} {
			if !errors.Is(err, ErrNotEnrolled) {
				t.Errorf("before enrolment: %v, want ErrNotEnrolled", err)
			}
		}
		if b.count(wire.TopicEnrol) != 0 {
			t.Error("something was sent before enrolment")
		}
	})
}
