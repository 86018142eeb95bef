package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"bluejay/blind"
	"bluejay/bridge"
	"bluejay/clients/handset"
	"bluejay/clients/simulator"
	"bluejay/wire"
)

// areaCodes are of the United States; in each, 555-0100 to 555-0199 are kept for fiction, so that no
// simulated number is anybody's.
var areaCodes = strings.Fields(`201 202 203 205 206 207 208 209 210 212 213 214 215 216 217 218 219 224 225 228 229 231
	234 239 240 248 251 252 253 254 256 260 262 267 269 270 276 281 301 302 303 304 305 307 308 309 310 312 313 314 315 316
	317 318 319 320 321 323 325 330 334 336 337 339 347 351 352 360 361 386 401 402 404 405 406 407 408 409 410 412 413 414
	415 417 419 423 425 430 432 434 435 440 443 469 478 479 480 484 501 502 503 504 505 507 508 509 510 512 513 515 516 517
	518 520 530 540 541 551 559 561 562 563 567 570 571 573 574 580 585 586 601 602 603 605 606 607 608 609 610 612 614 615
	616 617 618 619 620 623 626 630 631 636 641 646 650 651 660 661 662 678 682 701 702 703 704 706 707 708 712 713 714 715
	716 717 718 719 720 724 727 731 732 734 740 754 757 760 763 765 770 772 773 774 775 781 785 786 801 802 803 804 805 806
	808 810 812 813 814 815 816 817 818 828 830 831 832 843 845 847 848 850 856 857 858 859 860 862 863 864 865 870 878 901`)

// Fictional numbers: this many, the last of them the gateway's.
var (
	simNumbers   = 100 * len(areaCodes)
	gatewayPlace = simNumbers - 1
)

// simNumber is the number of person i.
func simNumber(i int) wire.Number {
	n, _ := wire.ParseNumber(fmt.Sprintf("+1%s55501%02d", areaCodes[i/100], i%100)) // well-formed by construction
	return n
}

// populate gives everybody a number and an ID, and every lean handset a device key and a
// certificate, signed in bulk with the registrar's key that this command made itself: real handsets
// enrol with one-time passwords as everybody does.
func (w *simWorld) populate(o *simOptions, cfg *simulator.Config) (err error) {
	if cfg.Pins, err = handset.LoadPins(filepath.Join(w.dir, filePins)); err != nil {
		return err
	}
	cfg.People, err = certify(rolesDir(w.dir, bridge.RoleRegistrar), o.real, o.lean, cfg.Profile.Strangers(o.real+o.lean))
	return err
}

// certify makes the population of a node whose registrar's keys are at hand: who has a real handset,
// who has a lean one, and who has none.
func certify(keys keyDir, reals, leans, strangers int) ([]simulator.Member, error) {
	if reals < 0 || leans < 0 || reals+leans < 1 || reals+leans+strangers > gatewayPlace {
		return nil, fmt.Errorf("from 1 to %d people: there are no more numbers that are kept for fiction", gatewayPlace)
	}
	signer, err1 := keys.seed(fileCert)
	voprf, err2 := parsed(keys, fileVOPRF, blind.ParseServerKey)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	people := make([]simulator.Member, reals+leans+strangers)
	errs := make([]error, len(people))
	var wg sync.WaitGroup
	turn := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range turn {
				people[i], errs[i] = member(i, i >= reals && i < reals+leans, signer, voprf)
			}
		})
	}
	for i := range people {
		turn <- i
	}
	close(turn)
	wg.Wait()
	return people, errors.Join(errs...)
}

// member makes one person; lean: with a certified device key.
func member(i int, lean bool, signer ed25519.PrivateKey, voprf blind.ServerKey) (m simulator.Member, err error) {
	m.Number = simNumber(i)
	if m.ID, err = voprf.FullEvaluate(m.Number); err != nil || !lean {
		return m, err
	}
	c := &simulator.Credential{Device: [ed25519.SeedSize]byte(random(ed25519.SeedSize))}
	c.Cert = wire.Certificate{
		ID: m.ID, Device: wire.PublicKey(ed25519.NewKeyFromSeed(c.Device[:]).Public().(ed25519.PublicKey)),
		IssuedAt: wire.Unix32(time.Now()), LifetimeHours: 30 * 24, KID: 1,
	}
	c.Cert.Sign(signer)
	m.Credential = c
	return m, nil
}

// credentialLine is one line of a credentials file. It is as secret as a phone.
type credentialLine struct {
	Number string `json:"number"`
	Cert   string `json:"certificate"`
	Device string `json:"device"`
	ID     string `json:"id"`
}

func simEnrolCmd() *cobra.Command {
	var dir, out string
	var n int
	cmd := &cobra.Command{
		Use:   "enrol",
		Short: "Certify lean handsets for a node whose keys are in DIR, for bluejay sim --credentials",
		Long: `Writes a file with lean handsets that the node in DIR will accept: numbers kept for fiction, device
keys, and certificates signed with the node's own registrar key. Run it where that key is; then the
fleet can run elsewhere. Real handsets enrol by themselves.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return simEnrol(dir, out, n) },
	}
	cmd.Flags().StringVar(&dir, "dir", defaultConfig().Dir, "the node's directory")
	cmd.Flags().StringVar(&out, "out", "credentials.jsonl", "the file to make")
	cmd.Flags().IntVar(&n, "handsets", 100, "how many")
	return cmd
}

func simEnrol(dir, out string, n int) (err error) {
	people, err := certify(rolesDir(dir, bridge.RoleRegistrar), 0, n, 0)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	for _, m := range people {
		line := credentialLine{
			Number: m.Number.E164(), ID: m.ID.String(), Cert: b64.EncodeToString(m.Credential.Cert.Marshal()),
			Device: b64.EncodeToString(m.Credential.Device[:]),
		}
		if err := json.NewEncoder(w).Encode(line); err != nil {
			return err
		}
	}
	return w.Flush()
}

// maxCredentials bounds a credentials file, in bytes.
const maxCredentials = 64 << 20

// readCredentials reads the lean handsets of a file; the first reals members are others.
func readCredentials(file string, reals, leans int) (people []simulator.Member, err error) {
	for i := range reals {
		people = append(people, simulator.Member{Number: simNumber(gatewayPlace - 1 - i)})
	}
	if leans == 0 {
		return people, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(io.LimitReader(f, maxCredentials))
	for row := 1; len(people) < reals+leans && lines.Scan(); row++ {
		m, err := readCredential(lines.Bytes())
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", file, row, err)
		}
		people = append(people, m)
	}
	if len(people) < reals+leans {
		return nil, fmt.Errorf("%s: %d handsets where %d are asked for", file, len(people)-reals, leans)
	}
	return people, nil
}

func readCredential(b []byte) (m simulator.Member, err error) {
	var line credentialLine
	if err := json.Unmarshal(b, &line); err != nil {
		return m, errors.New("not a line of a credentials file")
	}
	cert, err1 := b64.DecodeString(line.Cert)
	device, err2 := b64.DecodeString(line.Device)
	if m.Number, err = wire.ParseNumber(line.Number); err != nil || err1 != nil || err2 != nil || len(device) != ed25519.SeedSize {
		return m, errors.New("not a credential: make the file with bluejay sim enrol")
	}
	c := &simulator.Credential{Device: [ed25519.SeedSize]byte(device)}
	if c.Cert, err = wire.ParseCertificate(cert); err != nil {
		return m, errors.New("not a certificate: make the file with bluejay sim enrol")
	}
	m.ID, m.Credential = c.Cert.ID, c
	return m, nil
}

// simTLS trusts one CA.
func simTLS(ca string) (*tls.Config, error) {
	roots, err := readCA(ca)
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
}
