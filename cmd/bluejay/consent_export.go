package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bluejay/consent"
	"bluejay/wire"
)

func consentExportCmd() *cobra.Command {
	var k trusted
	var p exportParties
	var format string
	c := &cobra.Command{
		Use: "export FILE --format iso27560|dpv|kantara", Short: "Write receipts in the forms that other systems read",
		Long: `Write receipts, once they verify, as one document:

  iso27560   a consent record with the fields of ISO/IEC TS 27560:2023
  dpv        W3C DPV as JSON-LD, after the DPV guide to ISO/IEC TS 27560
  kantara    a Kantara Consent Receipt 1.1, of the newest consent

What was agreed to comes from the receipt. Who the operator is does not stand in it: say it with the
flags; what is left out is written as "not stated". There is no number in the document unless you put
one there with --subject. The signatures are not carried over: keep the receipt, it is the proof.`,
		Example: "  bluejay consent export receipt.json --format kantara --pins pins.json --controller 'Example Ltd' --email privacy@example.com",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := exporters[format]
			if !ok {
				return fmt.Errorf("--format %q is none of iso27560, dpv, kantara", format)
			}
			keys, err := k.load(true)
			if err != nil {
				return err
			}
			h, err := loadHistory(args[0], cmd.InOrStdin(), keys)
			if err != nil {
				return err
			}
			if missing := p.missing(); len(missing) > 0 {
				_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "not stated: %s\n", strings.Join(missing, ", "))
			}
			return writeJSON(cmd.OutOrStdout(), write(h, p.orUnstated(keys.name)))
		},
	}
	k.flags(c.Flags())
	p.flags(c.Flags())
	c.Flags().StringVar(&format, "format", "", "iso27560, dpv or kantara")
	return c
}

var exporters = map[string]func(history, exportParties) any{"iso27560": isoRecord, "dpv": dpvReceipt, "kantara": kantaraReceipt}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// exportParties is what a receipt does not hold: who runs the service, and what the user adds.
type exportParties struct {
	controller, contact, address, country, email, phone, policy, subject string
}

func (p *exportParties) each(f func(to *string, flag, usage string)) {
	f(&p.controller, "controller", "who runs the service: name")
	f(&p.contact, "contact", "who answers questions there")
	f(&p.address, "address", "their postal address")
	f(&p.country, "jurisdiction", "under whose law, for example GB")
	f(&p.email, "email", "their e-mail address")
	f(&p.phone, "phone", "their telephone")
	f(&p.policy, "policy-url", "where their privacy policy is")
}

func (p *exportParties) flags(f *pflag.FlagSet) {
	p.each(func(to *string, flag, usage string) { f.StringVar(to, flag, "", usage) })
	f.StringVar(&p.subject, "subject", "", "who the user is, such as a number, if it is to stand in the document; else the ID alone")
}

func (p *exportParties) missing() (flags []string) {
	p.each(func(v *string, flag, _ string) {
		if *v == "" {
			flags = append(flags, "--"+flag)
		}
	})
	return flags
}

// unstated stands where a form wants what nobody has said.
const unstated = "not stated"

func (p exportParties) orUnstated(broker string) exportParties {
	p.controller = orElse(p.controller, broker)
	p.each(func(v *string, _, _ string) { *v = orElse(*v, unstated) })
	return p
}

// history is the receipts of one ID that were verified, oldest first; there is at least one.
type history []receipt

// loadHistory reads and verifies every receipt of a file; one that is not genuine refuses them all.
func loadHistory(file string, stdin io.Reader, k keys) (history, error) {
	all, err := readReceipts(file, stdin)
	if err != nil {
		return nil, fmt.Errorf("%s: no receipt: %w", file, err)
	}
	h, bad := verified(all, k)
	if len(bad) > 0 {
		return nil, fmt.Errorf("%s: not exported: %w", file, errReceipt(bad[0]))
	}
	slices.SortFunc(h, func(a, b receipt) int { return int(int64(a.Record.Seq) - int64(b.Record.Seq)) })
	if slices.ContainsFunc(h, func(r receipt) bool { return r.Record.ID != h[0].Record.ID }) {
		return nil, errors.New("these receipts are of several IDs: export each alone")
	}
	return h, nil
}

// granted is the newest consent, or the newest withdrawal if there is nothing else.
func (h history) granted() receipt {
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].Record.Scopes != 0 {
			return h[i]
		}
	}
	return h[len(h)-1]
}

func (p exportParties) who(r receipt) string { return orElse(p.subject, r.Record.ID.String()) }

// uuidOf names a receipt: a UUID of version 8 (RFC 9562) made from the record's hash, so that the same
// receipt has the same name.
func (r receipt) uuidOf() string {
	h := sha256.Sum256(r.raw())
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// purpose is what a scope means in the words of such documents.
type purpose struct {
	scope               wire.Scope
	name, data, keeping string
	recipient           string // third party; "": none
}

const (
	untilErased  = "until the user asks for erasure"
	untilGrey    = "while connected; in memory only"
	waysToStop   = "in the app, by SMS with the keyword STOP, from another phone with a one-time password, or by asking the operator"
	how          = "explicit choice in the app, after the notice, signed with the device's key"
	serverOfNode = "the operator's server"
)

var purposes = []purpose{
	{wire.ScopeMessaging, "send and receive texts over the internet, encrypted between the phones", "a code made from the telephone number; the device's public key; this consent", untilErased, ""},
	{wire.ScopePresence, "show accepted contacts that the user is reachable", "whether the device is connected", untilGrey, ""},
	{wire.ScopeGateway, "send a text as SMS through the gateway when the recipient cannot be reached", "text, sender's and recipient's number of that SMS", "until the SMS is handed over; an outcome without text or number for 48 hours", "the SMS networks"},
	{wire.ScopeBackup, "backup (reserved: nothing is backed up)", "none", "not at all", ""},
	{wire.ScopeIntegrations, "tell linked services what became of the user's SMS", "a pseudonym of its own for each service; outcomes of SMS", "as long as the linked service says", "services that the operator has linked"},
}

func (r receipt) purposes() (out []purpose) {
	for _, p := range purposes {
		if r.Record.Scopes.Has(p.scope) {
			out = append(out, p)
		}
	}
	return out
}

// recipients are who else gets the data of a purpose: a list, because the forms want one.
func (p purpose) recipients() []string {
	if p.recipient == "" {
		return []string{}
	}
	return []string{p.recipient}
}

// lang is the language of the notice; und where the text is not known (BCP 47).
func (r receipt) lang() string {
	n, ok := consent.NoticeByHash(r.Record.Notice)
	if !ok {
		return "und"
	}
	return n.Lang
}

func (r receipt) notice() string { return fmt.Sprintf("urn:bluejay:notice:%x", r.Record.Notice) }

func (r receipt) received() string { return r.ReceivedAt.UTC().Format(time.RFC3339) }

type object = map[string]any

// isoRecord has the fields of ISO/IEC TS 27560:2023 clause 6.3, by their names there.
func isoRecord(h history, p exportParties) any {
	r := h.granted()
	processing := []object{}
	for _, x := range r.purposes() {
		processing = append(processing, object{
			"privacy_notice": r.notice(), "language": r.lang(), "purposes": []object{{"purpose": x.name}}, "lawful_basis": "consent",
			"pii_information": []object{{"pii_type": x.data}}, "pii_controllers": []string{"operator"}, "collection_method": how,
			"storage_locations": []string{serverOfNode}, "retention_period": x.keeping, "jurisdiction": p.country,
			"recipient_third_parties": x.recipients(), "withdrawal_method": waysToStop,
		})
	}
	return object{
		"schema_version": "ISO/IEC TS 27560:2023", "record_id": r.uuidOf(), "pii_principal_id": p.who(r), "pii_processing": processing,
		"party_identification": []object{{
			"party_id": "operator", "party_name": p.controller, "party_address": p.address, "party_contact": p.contact, "party_email": p.email,
			"party_phone": p.phone, "party_url": p.policy, "party_role": "PII controller", "party_type": "PII controller",
		}},
		"events": h.events(p),
	}
}

func (h history) events(p exportParties) []object {
	out := []object{}
	for _, r := range h {
		e := object{
			"event_time": r.received(), "validity_duration": r.received() + "/" + rfc3339(r.Record.ExpiresAt), "entity_id": p.who(r),
			"event_type": "explicit", "event_state": "given", "record_sequence": r.Record.Seq,
		}
		if r.Record.Scopes == 0 {
			e["event_state"], e["validity_duration"] = "withdrawn", unstated
		}
		out = append(out, e)
	}
	return out
}

// dpvReceipt follows the example of a consent receipt in W3C DPVCG's "Consent Records and Receipts as
// per ISO/IEC TS 27560:2023 using DPV".
func dpvReceipt(h history, p exportParties) any {
	r := h.granted()
	process := []object{}
	for _, x := range r.purposes() {
		process = append(process, object{
			"@type": "dpv:Process", "dpv:hasPurpose": object{"@type": "dpv:ServiceProvision", "dct:description": x.name},
			"dpv:hasLegalBasis":   "dpv:ExplicitlyExpressedConsent",
			"dpv:hasPersonalData": object{"@type": "dpv:PersonalData", "dct:description": x.data},
			"dpv:hasStorageCondition": []object{
				{"@type": "dpv:StorageLocation", "dpv:hasLocation": serverOfNode},
				{"@type": "dpv:StorageDuration", "dpv:hasDuration": object{"@type": "dpv:UntilEventDuration", "rdf:value": x.keeping}},
			},
			"dpv:hasRecipient": append([]string{"urn:bluejay:operator"}, x.recipients()...),
		})
	}
	status := []object{}
	for _, x := range h {
		state := object{"@type": []string{"dpv:ConsentGiven", "dpv:ExplicitlyExpressedConsent"}, "dct:valid": rfc3339(x.Record.ExpiresAt)}
		if x.Record.Scopes == 0 {
			state = object{"@type": []string{"dpv:ConsentWithdrawn"}}
		}
		state["dpv:isIndicatedBy"], state["dpv:hasIndicationMethod"], state["dpv:isIndicatedAtTime"] = "dpv:DataSubject", how, x.received()
		status = append(status, state)
	}
	return object{
		"@context": object{
			"dpv": "https://w3id.org/dpv#", "dct": "http://purl.org/dc/terms/", "schema": "https://schema.org/",
			"rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
		},
		"@id": "urn:uuid:" + r.uuidOf() + "#receipt", "@type": "dpv:ConsentReceipt", "dct:identifier": r.uuidOf() + "#receipt",
		"dct:conformsTo": "https://w3id.org/dpv/schema/dpv-27560#receipt", "dct:created": r.received(), "dct:publisher": "urn:bluejay:operator",
		"schema:recipient": "dpv:DataSubject",
		"dpv:hasRecordOfActivity": object{
			"@id": "urn:uuid:" + r.uuidOf(), "@type": "dpv:ConsentRecord", "dct:identifier": r.uuidOf(),
			"dct:conformsTo":     "https://w3id.org/dpv/schema/dpv-27560#record",
			"dpv:hasDataSubject": object{"@type": "dpv:DataSubject", "dct:identifier": p.who(r)},
			"dpv:hasDataController": object{
				"@id": "urn:bluejay:operator", "@type": "dpv:DataController", "dct:identifier": "operator", "dpv:hasName": p.controller,
				"dpv:hasAddress": p.address, "dpv:hasContact": []string{p.contact, p.email, p.phone, p.policy},
			},
			"dpv:hasJurisdiction": p.country, "dpv:hasProcess": process,
			"dpv:hasConsentControl": object{"@type": []string{"dpv:WithdrawConsent"}, "dpv:isExercisedAt": waysToStop},
			"dpv:hasNotice":         object{"@id": r.notice(), "@type": "dpv:ConsentNotice", "dct:language": r.lang()},
			"dpv:hasConsentStatus":  status,
		},
	}
}

// kantaraReceipt has the fields of Kantara's Consent Receipt Specification 1.1.0. It has no form for a
// withdrawal: the newest consent is shown, and when it ended.
func kantaraReceipt(h history, p exportParties) any {
	r, last := h.granted(), h[len(h)-1]
	ends := "expires " + rfc3339(r.Record.ExpiresAt)
	if last.Record.Scopes == 0 {
		ends = "withdrawn " + last.received()
	}
	list := []object{}
	for _, x := range r.purposes() {
		o := object{
			"purpose": x.name, "purposeCategory": []string{"1 - Core Function"}, "consentType": "EXPLICIT",
			"piiCategory":    []string{"2 - Contact", "4 - Communications/Social"},
			"primaryPurpose": x.scope == wire.ScopeMessaging, "termination": ends + "; to stop: " + waysToStop + "; kept " + x.keeping,
			"thirdPartyDisclosure": x.recipient != "",
		}
		if x.recipient != "" {
			o["thirdPartyName"] = x.recipient
		}
		list = append(list, o)
	}
	return object{
		"version": "KI-CR-v1.1.0", "jurisdiction": p.country, "consentTimestamp": r.ReceivedAt.Unix(), "collectionMethod": how,
		"consentReceiptID": r.uuidOf(), "language": r.lang(), "piiPrincipalId": p.who(r),
		"piiControllers": []object{{
			"piiController": p.controller, "onBehalf": false, "contact": p.contact, "address": object{"streetAddress": p.address, "addressCountry": p.country},
			"email": p.email, "phone": p.phone,
		}},
		"policyUrl": p.policy, "services": []object{{"service": "Bluejay", "purposes": list}}, "sensitive": false, "spiCat": []string{},
	}
}
