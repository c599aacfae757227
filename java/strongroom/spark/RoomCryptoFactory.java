package strongroom.spark;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;
import java.util.regex.Pattern;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.parquet.column.ColumnDescriptor;
import org.apache.parquet.crypto.DecryptionKeyRetriever;
import org.apache.parquet.crypto.FileDecryptionProperties;
import org.apache.parquet.crypto.FileEncryptionProperties;
import org.apache.parquet.crypto.ParquetCryptoRuntimeException;
import org.apache.parquet.crypto.keytools.PropertiesDrivenCryptoFactory;
import org.apache.parquet.hadoop.api.WriteSupport.WriteContext;

/**
 * Reads only declared, encrypted Parquet files, and writes only files in which every column is encrypted.
 *
 * <p>The stock factory writes plaintext when no key is named, leaves columns without a key in plaintext, and reads a
 * plaintext file as if it were an encrypted one. This one throws in each of those cases.
 */
public final class RoomCryptoFactory extends PropertiesDrivenCryptoFactory {
  /** What a write encrypts as: {@code dataset@version}. The key of each column follows from it. */
  static final String WRITE_AS = "strongroom.write.as";

  private static final Pattern DATASET = Pattern.compile("[A-Za-z0-9._-]{1,128}@[0-9]{1,16}");
  private static final Pattern COLUMN = Pattern.compile("[^:;,.\\p{Cntrl}]+");

  /** Set while this factory works, so that no option can make the stock factory use the room's keys instead. */
  private static final ThreadLocal<Boolean> ACTIVE = ThreadLocal.withInitial(() -> false);

  static void checkActive() {
    if (!ACTIVE.get()) {
      throw new ParquetCryptoRuntimeException(
          "the room's keys serve the room's own crypto factory only; leave parquet.crypto.* alone");
    }
  }

  private static <T> T active(Supplier<T> work) {
    boolean before = ACTIVE.get();
    ACTIVE.set(true);
    try {
      return work.get();
    } finally {
      ACTIVE.set(before);
    }
  }

  @Override
  public FileEncryptionProperties getFileEncryptionProperties(
      Configuration conf, Path path, WriteContext context) {
    String dataset = conf.get(WRITE_AS, "");
    if (!DATASET.matcher(dataset).matches()) {
      throw new ParquetCryptoRuntimeException(
          "refused to write " + path + " in plaintext: no dataset is named to encrypt it as");
    }
    Configuration strict = new Configuration(conf);
    strict.set(FOOTER_KEY_PROPERTY_NAME, dataset + "/footer");
    strict.set(COLUMN_KEYS_PROPERTY_NAME, columnKeys(dataset, context));
    strict.unset(UNIFORM_KEY_PROPERTY_NAME);
    strict.set(COMPLETE_COLUMN_ENCRYPTION_PROPERTY_NAME, "true");
    strict.set(PLAINTEXT_FOOTER_PROPERTY_NAME, "false");
    strict.set(ENCRYPTION_ALGORITHM_PROPERTY_NAME, "AES_GCM_V1");
    strict.set("parquet.encryption.data.key.length.bits", "256");
    strict.set("parquet.encryption.double.wrapping", "false");
    strict.set("parquet.encryption.key.material.store.internally", "true");
    strict.set("parquet.encryption.kms.client.class", AgentKmsClient.class.getName());
    FileEncryptionProperties properties =
        active(() -> super.getFileEncryptionProperties(strict, path, context));
    if (properties == null || !properties.encryptedFooter()) {
      throw new ParquetCryptoRuntimeException("refused to write " + path + " in plaintext");
    }
    return properties;
  }

  /** Returns one key for each top-level column, and under it all of the column's leaves. */
  private static String columnKeys(String dataset, WriteContext context) {
    Map<String, List<String>> leaves = new LinkedHashMap<>();
    for (ColumnDescriptor column : context.getSchema().getColumns()) {
      for (String part : column.getPath()) {
        if (!COLUMN.matcher(part).matches()) {
          throw new ParquetCryptoRuntimeException(
              "cannot encrypt a column called '" + part + "': rename it without : ; , . and control characters");
        }
      }
      leaves
          .computeIfAbsent(column.getPath()[0], name -> new ArrayList<>())
          .add(String.join(".", column.getPath()));
    }
    List<String> keys = new ArrayList<>();
    leaves.forEach(
        (name, paths) -> keys.add(dataset + "/column/" + name + ":" + String.join(",", paths)));
    return String.join(";", keys);
  }

  @Override
  public FileDecryptionProperties getFileDecryptionProperties(Configuration conf, Path path) {
    Configuration strict = new Configuration(conf);
    strict.set("parquet.encryption.kms.client.class", AgentKmsClient.class.getName());
    DecryptionKeyRetriever keys =
        super.getFileDecryptionProperties(strict, path).getKeyRetriever();
    byte[] footer = DeclaredFiles.of(conf).verifiedFooter(path, conf);
    // Without withPlaintextFilesAllowed, which the stock factory sets.
    return FileDecryptionProperties.builder().withKeyRetriever(new BoundKeys(keys, footer)).build();
  }

  /**
   * Gives keys for the very file whose footer was verified.
   *
   * <p>The reader asks for the footer's key first. Its wrapped form is random for each file and stands in the footer, so
   * a file that was exchanged after the check asks with other bytes, and is refused.
   */
  private static final class BoundKeys implements DecryptionKeyRetriever {
    private final DecryptionKeyRetriever keys;
    private final byte[] footer;
    private boolean bound;

    BoundKeys(DecryptionKeyRetriever keys, byte[] footer) {
      this.keys = keys;
      this.footer = footer;
    }

    @Override
    public synchronized byte[] getKey(byte[] keyMetadata) {
      if (!bound) {
        if (keyMetadata.length == 0 || !contains(footer, keyMetadata)) {
          throw new ParquetCryptoRuntimeException("the file was exchanged after it was verified");
        }
        bound = true;
      }
      return active(() -> keys.getKey(keyMetadata));
    }

    private static boolean contains(byte[] whole, byte[] part) {
      for (int start = 0; start + part.length <= whole.length; start++) {
        int length = 0;
        while (length < part.length && whole[start + length] == part[length]) {
          length++;
        }
        if (length == part.length) {
          return true;
        }
      }
      return false;
    }
  }
}
