package strongroom.spark;

import java.nio.charset.StandardCharsets;
import org.apache.hadoop.conf.Configuration;
import org.apache.parquet.crypto.keytools.KeyToolkit;
import org.apache.parquet.crypto.keytools.KmsClient;

/**
 * Wraps and unwraps the keys of Parquet files under keys that the local key agent holds.
 *
 * <p>A wrapped key is base64 of nonce (12 bytes), ciphertext and tag (16 bytes), AES-256-GCM with the master key's id as
 * associated data (spec/1-encrypted-dataset.md); Python's reader and writer speak the same.
 */
public final class AgentKmsClient implements KmsClient {
  @Override
  public void initialize(Configuration conf, String instance, String address, String token) {
    // The agent is found by a property of this JVM: a path differs from machine to machine.
  }

  @Override
  public String wrapKey(byte[] key, String masterKeyId) {
    RoomCryptoFactory.checkActive();
    byte[] associated = masterKeyId.getBytes(StandardCharsets.UTF_8);
    return KeyToolkit.encryptKeyLocally(key, KeyAgent.key(masterKeyId), associated);
  }

  @Override
  public byte[] unwrapKey(String wrapped, String masterKeyId) {
    RoomCryptoFactory.checkActive();
    byte[] associated = masterKeyId.getBytes(StandardCharsets.UTF_8);
    return KeyToolkit.decryptKeyLocally(wrapped, KeyAgent.key(masterKeyId), associated);
  }
}
