package handset

import "github.com/eclipse/paho.mqtt.golang/packets"

// noStore is paho's message store, and keeps nothing: a text is in the handset's own log before it
// is published, and is sent again from there. [U-6]
type noStore struct{}

func (noStore) Open()                             {}
func (noStore) Put(string, packets.ControlPacket) {}
func (noStore) Get(string) packets.ControlPacket  { return nil }
func (noStore) All() []string                     { return nil }
func (noStore) Del(string)                        {}
func (noStore) Close()                            {}
func (noStore) Reset()                            {}
